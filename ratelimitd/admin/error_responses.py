"""What goes wrong becomes JSON: a sentence, and what is wrong where. No traceback reaches a caller."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ratelimitd.errors import (
    CheckCallError,
    ConflictError,
    PolicyError,
    Problem,
    RequestSpecError,
    StoreError,
    UnknownRevisionError,
    WaitError,
    must,
)
from ratelimitd.policy.location import path_of

STATUS: Mapping[type[Exception], int] = {
    UnknownRevisionError: 404,
    ConflictError: 409,
    PolicyError: 422,
    RequestSpecError: 422,
    CheckCallError: 502,
    StoreError: 503,
    WaitError: 504,
}
"""The status of each error that has a sentence for the caller. A conflict is 412 for who sent If-Match."""

MEANING = {
    400: "The body is no JSON.",
    401: "The header X-Admin-Key is missing or wrong.",
    403: "The key may only look.",
    404: "There is no such revision.",
    408: "The body did not arrive in time.",
    409: "Somebody else changed the policy at the same moment.",
    412: "The policy is no longer the one in If-Match.",
    413: "The body is too long.",
    422: "What was sent cannot be: each problem names what was wrong and what would be right.",
    428: "If-Match is missing.",
    429: "Too many wrong keys wait for their answers.",
    500: "A defect of ratelimitd. Its log says more.",
    502: "The running service does not answer.",
    503: "The store does not answer.",
    504: "The policy is accepted, and some replica does not run it yet.",
}

MAX_PROBLEMS = 20
"""Of a body: more of them help nobody."""

_log = structlog.get_logger("ratelimitd.admin")


class ErrorBody(BaseModel):
    """What went wrong, as one sentence, and where."""

    error: str
    problems: list[Problem]


def failing(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses as an OpenAPI operation declares them."""
    return {status: {"model": ErrorBody, "description": MEANING[status]} for status in statuses}


def failure(
    status: int,
    sentence: str,
    problems: Iterable[Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer. What is no UTF-8 in it, such as half a surrogate pair of the caller's, becomes `?`."""
    shape = ErrorBody.model_construct(error=_utf8(sentence), problems=[])
    content = shape.model_dump() | {
        "problems": [{"path": _utf8(problem.path), "reason": _utf8(problem.reason)} for problem in problems]
    }
    return JSONResponse(content, status, headers)


def _utf8(text: str) -> str:
    return text.encode(errors="replace").decode()


async def on_error(request: Request, error: Exception) -> Response:
    """The answer to an error of STATUS."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    if status == HTTPStatus.CONFLICT and "if-match" in request.headers:
        status = HTTPStatus.PRECONDITION_FAILED
    return failure(status, str(error), error.problems if isinstance(error, PolicyError) else ())


_OURS = {"There was an error parsing the body": "the body must be JSON in UTF-8"}
"""What the framework says of bodies that are no UTF-8, too deep, or hold a number of thousands of digits."""


async def on_http_error(request: Request, error: Exception) -> Response:
    """The answer to what the framework refuses, and to what endpoints refuse in its way."""
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette calls it with nothing else
    sentence = {
        HTTPStatus.NOT_FOUND: f"there is nothing at {request.url.path}",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.url.path} does not take {request.method}",
    }.get(HTTPStatus(error.status_code), _OURS.get(error.detail, error.detail))
    return failure(error.status_code, sentence, headers=error.headers)


async def on_invalid(_request: Request, error: Exception) -> Response:
    """The answer to parameters and bodies that cannot be."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - Starlette calls it with nothing else
    found: Sequence[Any] = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return failure(HTTPStatus.BAD_REQUEST, f"the body must be JSON: {must(found[0]['ctx']['error'])}")
    # A place begins with `body`, `query`, `path` or `header`.
    problems = [Problem(path_of(tuple(one["loc"][1:])), _reason(one)) for one in found[:MAX_PROBLEMS]]
    return failure(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(str(one) for one in problems), problems)


def _reason(problem: Mapping[str, Any]) -> str:
    if problem["loc"] == ("body",):
        return "the body must be a JSON object, sent as application/json"
    return must(problem["msg"])


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    HTTPException: on_http_error,
    RequestValidationError: on_invalid,
    **dict.fromkeys(STATUS, on_error),
}
"""As applications want them."""


class NoTraceback:
    """Around an application: what nobody expected is logged, and answered with 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            pass  # it left before its body was whole: nobody waits for an answer, and nothing failed
        except Exception:
            _log.exception("admin_failed", method=scope.get("method"), path=scope.get("path"))
            if started:
                raise  # half an answer: the server must end the connection
            await failure(
                HTTPStatus.INTERNAL_SERVER_ERROR, "ratelimitd failed; its log says more, under admin_failed"
            )(scope, receive, send)

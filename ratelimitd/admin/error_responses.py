"""Errors as JSON: one sentence, and a list of problems with their places."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ratelimitd.errors import (
    CheckCallError,
    ConflictError,
    NothingLostError,
    PolicyError,
    Problem,
    RequestSpecError,
    StoreError,
    UnknownRevisionError,
    WaitError,
)
from ratelimitd.policy.location import path_of
from ratelimitd.pydantic_text import reason_of
from ratelimitd.utf8 import encodable

_STATUSES: Mapping[type[Exception], HTTPStatus] = {
    UnknownRevisionError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    PolicyError: HTTPStatus.UNPROCESSABLE_ENTITY,
    RequestSpecError: HTTPStatus.UNPROCESSABLE_ENTITY,
    CheckCallError: HTTPStatus.BAD_GATEWAY,
    StoreError: HTTPStatus.SERVICE_UNAVAILABLE,
    WaitError: HTTPStatus.GATEWAY_TIMEOUT,
}
"""For the API and the panel. The command line has its own table: exit statuses group errors differently."""

DESCRIPTIONS = {
    400: "The body is not JSON.",
    401: "The X-Admin-Key header is missing or its key is not valid.",
    403: "The key is read-only.",
    404: "The revision does not exist.",
    408: "The body did not arrive in time.",
    409: "Nothing was written: the state of the policy does not allow it.",
    412: "If-Match does not name the newest policy.",
    413: "The body is too long.",
    422: "The request is invalid. Each problem says what is wrong and what is allowed.",
    428: "The If-Match header is missing.",
    429: "Too many wrong keys were sent at the same time.",
    500: "Internal error. The log of ratelimitd has the details.",
    502: "The running service did not answer the Check.",
    503: "The store did not answer.",
    504: "The policy is accepted, but not every replica runs it yet.",
}

MAX_PROBLEMS = 20
"""Problems of one request body that are listed. A longer list does not help."""


class ErrorBody(BaseModel):
    """What went wrong, as one sentence, and where."""

    error: str
    problems: list[Problem]


def error_declarations(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the OpenAPI declarations of these error statuses for an operation."""
    return {status: {"model": ErrorBody, "description": DESCRIPTIONS[status]} for status in statuses}


def error_response(
    status: int,
    sentence: str,
    problems: Iterable[Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Returns an error as JSON. What UTF-8 cannot encode, such as half a surrogate pair, becomes `?`."""
    body = ErrorBody.model_construct(error=encodable(sentence), problems=[])
    content = body.model_dump() | {
        "problems": [{"path": encodable(one.path), "reason": encodable(one.reason)} for one in problems]
    }
    return JSONResponse(content, status, headers)


def status_of(error: Exception) -> HTTPStatus:
    """Returns the HTTP status of an error. Those that a caller cannot cause are internal errors."""
    statuses = (_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)
    return next(statuses, HTTPStatus.INTERNAL_SERVER_ERROR)


async def _on_known_error(request: Request, error: Exception) -> Response:
    status = status_of(error)
    refuses_tag = isinstance(error, ConflictError) and not isinstance(error, NothingLostError)
    if refuses_tag and "if-match" in request.headers:
        status = HTTPStatus.PRECONDITION_FAILED
    return error_response(status, str(error), error.problems if isinstance(error, PolicyError) else ())


_CLEARER = {"There was an error parsing the body": "the body must be JSON in UTF-8"}
"""FastAPI's message for a body that is not UTF-8, too deep, or holds a number of thousands of digits."""


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answers an HTTPException of the framework or of an endpoint."""
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette calls it with nothing else
    sentence = {
        HTTPStatus.NOT_FOUND: f"nothing is served at {request.url.path}",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.url.path} does not allow {request.method}",
    }.get(HTTPStatus(error.status_code), _CLEARER.get(error.detail, error.detail))
    return error_response(error.status_code, sentence, headers=error.headers)


async def _on_invalid_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - Starlette calls it with nothing else
    found: Sequence[Any] = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        return error_response(
            HTTPStatus.BAD_REQUEST, f"the body must be JSON: {reason_of(found[0]['ctx']['error'])}"
        )
    # The first element of a place is `body`, `query`, `path` or `header`.
    problems = [Problem(path_of(tuple(one["loc"][1:])), _reason(one)) for one in found[:MAX_PROBLEMS]]
    return error_response(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(str(one) for one in problems), problems)


# Clearer than the messages of pydantic.
_REASONS = {
    "missing": "is required",
    "extra_forbidden": "unknown field",
    "too_long": "must have at most {max_length} {things}",
    "string_too_long": "must have at most {max_length} {things}",
    "too_short": "must not be empty",
}


def _reason(problem: Mapping[str, Any]) -> str:
    if problem["loc"] == ("body",):
        return "the body must be a JSON object, sent as application/json"
    if problem["type"] == "string_pattern_mismatch":
        return f"must match the pattern {problem['ctx']['pattern']}"
    template = _REASONS.get(problem["type"])
    if template is None:
        return reason_of(problem["msg"])
    things = "characters" if isinstance(problem["input"], str) else "items"
    return template.format(things=things, **problem.get("ctx", {}))


EXCEPTION_HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    HTTPException: on_http_error,
    RequestValidationError: _on_invalid_request,
    **dict.fromkeys(_STATUSES, _on_known_error),
}
"""In the form that Starlette and FastAPI take."""

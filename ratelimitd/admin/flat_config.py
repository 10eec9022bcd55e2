"""GET and POST /admin/config: the policy in force as a flat policy, six numbers.

A flat policy cannot express everything. POST never drops the rest of a full policy silently.
"""

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ratelimitd.admin.admin_keys import Role
from ratelimitd.admin.authentication import Authenticator
from ratelimitd.admin.error_responses import error_response
from ratelimitd.admin.request_models import DEFAULT_AUTHOR
from ratelimitd.control.control import Control
from ratelimitd.policy.document import PolicyDocument
from ratelimitd.policy.flat_form import FlatPolicy, flat_form, not_flat
from ratelimitd.policy.text import parse
from ratelimitd.rollout.expected import Expected

NOTE = "POST /admin/config"
FULL_POLICY_PATH = "/admin/api/v1/policy"


def flat_config(control: Control, authenticator: Authenticator) -> Callable[[Request], Awaitable[Response]]:
    """Returns the endpoint."""

    async def config(request: Request) -> Response:
        try:
            role = await authenticator.role(request)
        except HTTPException as refusal:
            if refusal.status_code != HTTPStatus.UNAUTHORIZED:
                raise
            return JSONResponse({"error": "unauthorized"}, HTTPStatus.UNAUTHORIZED, refusal.headers)
        if request.method != "POST":
            return await _get(control)
        if role < Role.WRITE:
            raise HTTPException(HTTPStatus.FORBIDDEN, "this key is read-only")
        replace = request.query_params.get("replace") == "true"
        return await _post(control, await request.body(), replace=replace)

    return config


async def _get(control: Control) -> Response:
    policy = parse((await control.current()).revision.text)
    flat = flat_form(policy)
    if flat is None:
        off = ", ".join(part for part in not_flat(policy) if part.endswith("off"))
        return error_response(
            HTTPStatus.CONFLICT,
            f"a flat policy cannot express {off}; GET {FULL_POLICY_PATH} returns the full policy",
        )
    return JSONResponse(_numbers(flat))


async def _post(control: Control, body: bytes, *, replace: bool) -> Response:
    try:
        data: Any = json.loads(body)
        text = body.decode()
    except (ValueError, RecursionError):
        return error_response(HTTPStatus.BAD_REQUEST, "the body must be JSON in UTF-8")
    if isinstance(data, dict) and not data.keys().isdisjoint(PolicyDocument.model_fields):
        return error_response(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            f"this endpoint takes a flat policy, six numbers; PUT a full policy to {FULL_POLICY_PATH}",
        )
    policy = parse(text)
    expected = None
    if not replace:
        newest = (await control.current()).revision
        expected = Expected.of(newest)  # a policy that is accepted in between may not be flat
        if dropped := ", ".join(not_flat(parse(newest.text))):
            return error_response(
                HTTPStatus.CONFLICT,
                f"a flat policy would drop {dropped} from the policy in force; "
                f"PUT a full policy to {FULL_POLICY_PATH}, or use ?replace=true to drop it",
            )
    await control.apply(text, author=DEFAULT_AUTHOR, note=NOTE, expected=expected)
    flat = flat_form(policy)
    assert flat is not None  # noqa: S101 - it has no field of a full policy: checked above
    return JSONResponse(_numbers(flat))


def _numbers(flat: FlatPolicy) -> dict[str, float]:
    """Returns the six numbers. A whole rate is written as an integer."""
    found: dict[str, float] = flat.model_dump()
    return {name: int(number) if number == int(number) else number for name, number in found.items()}

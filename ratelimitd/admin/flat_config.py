"""GET and POST /admin/config: the flat form, six numbers. It drops nothing else in silence."""

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ratelimitd.admin.admin_keys import Role
from ratelimitd.admin.authentication import Guard
from ratelimitd.admin.error_responses import failure
from ratelimitd.admin.in_time import in_time
from ratelimitd.admin.request_models import AUTHOR
from ratelimitd.control.control import Control
from ratelimitd.policy.compile import flat_form
from ratelimitd.policy.document import FlatPolicy, PolicyDocument
from ratelimitd.policy.text import parse

NOTE = "POST /admin/config"
FULL_FORM = "/admin/api/v1/policy"


def flat_config(control: Control, guard: Guard) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint."""

    async def config(request: Request) -> Response:
        try:
            role = await guard.role(request)
        except HTTPException as refusal:
            if refusal.status_code != HTTPStatus.UNAUTHORIZED:
                raise
            return JSONResponse({"error": "unauthorized"}, HTTPStatus.UNAUTHORIZED, refusal.headers)
        if request.method != "POST":
            return await _shown(control)
        if role < Role.WRITE:
            raise HTTPException(HTTPStatus.FORBIDDEN, "this key may only look")
        return await _replaced(control, await request.body(), request.query_params.get("replace") == "true")

    return config


async def _shown(control: Control) -> Response:
    policy = parse((await in_time(control.current())).revision.text)
    flat = flat_form(policy)
    if flat is None:
        off = [part for part in _without_flat_form(policy) if part.endswith("off")]
        return failure(
            HTTPStatus.CONFLICT, f"{', '.join(off)}, which six numbers cannot say; GET {FULL_FORM}"
        )
    return JSONResponse(_numbers(flat))


async def _replaced(control: Control, body: bytes, replace: bool) -> Response:  # noqa: FBT001 - private
    try:
        data: Any = json.loads(body)
        text = body.decode()
    except (ValueError, RecursionError):
        return failure(HTTPStatus.BAD_REQUEST, "the body must be JSON in UTF-8")
    if isinstance(data, dict) and not data.keys().isdisjoint(PolicyDocument.model_fields):
        return failure(
            HTTPStatus.UNPROCESSABLE_ENTITY, f"here a policy is six numbers; PUT the full form to {FULL_FORM}"
        )
    policy = parse(text)
    expected = None
    if not replace:
        newest = (await in_time(control.current())).revision
        expected = newest.number  # what is accepted in between may have no flat form
        if dropped := _without_flat_form(parse(newest.text)):
            return failure(
                HTTPStatus.CONFLICT,
                f"six numbers would drop {', '.join(dropped)} from the policy in force; "
                f"PUT the full form to {FULL_FORM}, or drop them with ?replace=true",
            )
    await in_time(control.apply(text, author=AUTHOR, note=NOTE, expected=expected))
    flat = flat_form(policy)
    assert flat is not None  # noqa: S101 - no key of the full form was in it
    return JSONResponse(_numbers(flat))


def _numbers(flat: FlatPolicy) -> dict[str, float]:
    """The six numbers. A whole rate is written as a whole number."""
    found: dict[str, float] = flat.model_dump()
    return {name: int(number) if number == int(number) else number for name, number in found.items()}


def _without_flat_form(policy: FlatPolicy | PolicyDocument) -> list[str]:
    """What a policy says that six numbers cannot, by its place in the text."""
    if isinstance(policy, FlatPolicy):
        return []
    said = {"shadow": policy.shadow, "routes": policy.routes}
    said |= {f"overrides.{name}": value for name, value in policy.overrides}
    for name, tier in policy.tiers.items():
        said[f"tiers.{name}: off"] = tier is None
        if tier is not None:
            said |= {
                f"tiers.{name}.shadow": tier.shadow,
                f"tiers.{name}.on_store_error": tier.on_store_error is not None,
            }
    return [name for name, value in said.items() if value]

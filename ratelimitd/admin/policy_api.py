"""Policies and their revisions over HTTP. Nobody replaces one that he has not seen: If-Match names it."""

import re
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Request, Response

from ratelimitd.admin.authentication import may_change
from ratelimitd.admin.error_responses import failing
from ratelimitd.admin.in_time import in_time
from ratelimitd.admin.request_models import (
    DiffBody,
    HistoryQuery,
    PolicyBody,
    RollbackBody,
    TextBody,
)
from ratelimitd.control.answers import AppliedRevision, CurrentPolicy, History, PolicyDiff
from ratelimitd.control.control import Control
from ratelimitd.core.model import MAX_EXACT
from ratelimitd.errors import ConflictError, StoreError
from ratelimitd.policy.schema import schema
from ratelimitd.policy.validation import ValidationResult
from ratelimitd.policy.validation import validate as validate_policy
from ratelimitd.rollout.revision import Revision

_ETAG = {"ETag": {"description": "The policy that is in force.", "schema": {"type": "string"}}}
TAGGED: dict[int | str, dict[str, Any]] = {200: {"headers": _ETAG}}
"""The answers that tell an entity tag, as OpenAPI declares them."""

_TAG = re.compile(r'(?:W/)?"[^"]*"')
"""One in If-Match or If-None-Match (RFC 9110 section 8.8.3)."""

router = APIRouter(prefix="/v1")


async def _control(request: Request) -> Control:
    control: Control = request.app.state.control
    return control


Controlled = Annotated[Control, Depends(_control)]
IfMatch = Annotated[list[str] | None, Header(include_in_schema=False)]
"""Its lines. Absence is told with 428, not as a bad parameter; OpenAPI learns by hand that it is required."""

REPLACING: dict[str, Any] = {
    "parameters": [
        {
            "name": "If-Match",
            "in": "header",
            "required": True,
            "schema": {"type": "string"},
            "example": "*",
            "description": "The ETag of the policy that is replaced; * is whichever is the newest.",
        }
    ]
}


def etag(revision: Revision) -> str:
    """The policy's entity tag: the revision's number, and the name of its content."""
    return f'"{revision.number}-{revision.digest}"'


def _tags(*lines: str) -> list[str]:
    """Those that the lines of a header name. `*`, which is any, stands alone (RFC 9110 section 13.1.1)."""
    text = ",".join(lines)
    return ["*"] if text.strip() == "*" else _TAG.findall(text)


async def _expected(control: Control, if_match: list[str] | None) -> int | None:
    """The number of the newest revision, which If-Match names; None when any may be replaced.

    Raises HTTPException (428) and ConflictError.
    """
    if if_match is None:
        raise HTTPException(
            HTTPStatus.PRECONDITION_REQUIRED,
            "the header If-Match must name the policy that is replaced: its ETag, or * for whichever it is",
        )
    known = _tags(*if_match)
    if "*" in known:
        return None
    newest = (await in_time(control.current())).revision
    if etag(newest) not in known:
        raise ConflictError(
            f"the newest policy is {etag(newest)}, revision {newest.number} by {newest.author}, and If-Match "
            "names another; look at it (policy/diff), then send the change with its ETag"
        )
    return newest.number


@router.get(
    "/policy",
    response_model=CurrentPolicy,
    responses=TAGGED
    | failing(422)
    | {304: {"headers": _ETAG, "description": "It is the one in If-None-Match."}},
)
async def policy(
    control: Controlled, response: Response, if_none_match: Annotated[str | None, Header()] = None
) -> CurrentPolicy | Response:
    """The policy in force, which is the newest accepted one."""
    current = await in_time(control.current())
    tag = etag(current.revision)
    known = [known.removeprefix("W/") for known in _tags(if_none_match or "")]
    if tag in known or "*" in known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"etag": tag})
    response.headers["etag"] = tag
    return current


@router.put(
    "/policy",
    dependencies=[Depends(may_change)],
    openapi_extra=REPLACING,
    responses=TAGGED | failing(400, 403, 412, 422, 428, 504),
)
async def put_policy(
    control: Controlled, body: PolicyBody, response: Response, if_match: IfMatch = None
) -> AppliedRevision:
    """Makes a policy the one in force."""
    expected = await _expected(control, if_match)
    applied = await in_time(control.apply(body.text, author=body.author, note=body.note, expected=expected))
    return await _accepted(control, applied, body.wait_s, response)


async def _accepted(
    control: Control, applied: AppliedRevision, wait_s: float, response: Response
) -> AppliedRevision:
    """The answer, once every replica runs it when there is a time to wait.

    Raises WaitError, and StoreError that says what was done before.
    """
    revision = applied.revision
    if wait_s:
        try:
            await control.wait(revision.number, wait_s)
        except StoreError as error:
            raise StoreError(
                f"revision {revision.number} is accepted; whether it runs is unknown: {error}"
            ) from error
    response.headers["etag"] = etag(revision)
    return applied


@router.post("/policy/validate", responses=failing(400, 422))
async def validate(body: TextBody) -> ValidationResult:
    """What is wrong with a policy, and what its author may have missed. Nothing is changed."""
    return validate_policy(body.text)


@router.post("/policy/diff", responses=failing(400, 404, 422))
async def diff(control: Controlled, body: DiffBody) -> PolicyDiff:
    """What a policy would change, as a unified diff of both in normal form. Nothing is changed."""
    return PolicyDiff.of(await in_time(control.diff(body.text, body.against)))


@router.get("/policy/schema")
async def policy_schema() -> dict[str, Any]:
    """The JSON Schema of policies."""
    return schema()


@router.post(
    "/policy/rollback",
    dependencies=[Depends(may_change)],
    openapi_extra=REPLACING,
    responses=TAGGED | failing(400, 403, 404, 412, 422, 428, 504),
)
async def rollback(
    control: Controlled, body: RollbackBody, response: Response, if_match: IfMatch = None
) -> AppliedRevision:
    """Makes the text of an earlier revision the one in force, as a new revision."""
    expected = await _expected(control, if_match)
    revision = await in_time(control.rollback(body.to, author=body.author, note=body.note, expected=expected))
    return await _accepted(control, AppliedRevision(revision=revision, advice=()), body.wait_s, response)


@router.get("/revisions", responses=failing(422))
async def revisions(control: Controlled, page: Annotated[HistoryQuery, Query()]) -> History:
    """The newest revisions, newest first."""
    return History(revisions=await in_time(control.history(page.limit)))


@router.get("/revisions/{number}", responses=failing(404, 422))
async def revision(control: Controlled, number: Annotated[int, Path(ge=0, le=MAX_EXACT)]) -> Revision:
    """One revision, with its text."""
    return await in_time(control.revision(number))

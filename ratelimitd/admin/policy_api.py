"""Policies and revisions over HTTP. A change must name the policy that it replaces, with If-Match."""

import re
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Response

from ratelimitd.admin.authentication import require_write
from ratelimitd.admin.dependencies import ControlDependency
from ratelimitd.admin.error_responses import error_declarations
from ratelimitd.admin.request_models import (
    ChangeBody,
    DiffBody,
    HistoryQuery,
    PolicyBody,
    RollbackBody,
    TextBody,
)
from ratelimitd.control.answers import AppliedRevision, CurrentPolicy, History, PolicyDiff
from ratelimitd.control.control import Control
from ratelimitd.core.model import MAX_EXACT
from ratelimitd.errors import ConflictError
from ratelimitd.policy.schema import schema
from ratelimitd.policy.validation import ValidationResult
from ratelimitd.policy.validation import validate as validate_policy
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.revision import Revision

_ETAG = {"ETag": {"description": "Entity tag of the policy in force.", "schema": {"type": "string"}}}
TAGGED: dict[int | str, dict[str, Any]] = {200: {"headers": _ETAG}}
"""OpenAPI declaration of a response with an ETag."""

_TAG = re.compile(r'(?:W/)?"[^"]*"')
"""One entity tag in If-Match or If-None-Match (RFC 9110 section 8.8.3)."""

router = APIRouter(prefix="/v1")

IfMatch = Annotated[list[str] | None, Header(include_in_schema=False)]
"""Lines of the header. Its absence is answered with 428 instead of 422, so OpenAPI declares it by hand."""

IfNoneMatch = Annotated[str | None, Header(description="ETags of policies that the caller has already.")]

IF_MATCH_REQUIRED: dict[str, Any] = {
    "parameters": [
        {
            "name": "If-Match",
            "in": "header",
            "required": True,
            "schema": {"type": "string"},
            "example": "*",
            "description": "ETag of the policy to replace. * replaces whichever is the newest.",
        }
    ]
}


def etag(revision: Revision) -> str:
    """Returns the entity tag of a policy: the revision number and the digest."""
    return f'"{revision.tag}"'


def _tags(*lines: str) -> list[str]:
    """Returns the tags in the lines of a header. `*` must stand alone (RFC 9110 section 13.1.1)."""
    text = ",".join(lines)
    return ["*"] if text.strip() == "*" else _TAG.findall(text)


async def _expected(control: Control, if_match: list[str] | None) -> Expected | None:
    """Returns the newest revision if If-Match names it, or None if any may be replaced.

    Raises HTTPException (428) and ConflictError.
    """
    if if_match is None:
        raise HTTPException(
            HTTPStatus.PRECONDITION_REQUIRED,
            "the If-Match header is missing: send the ETag of the policy to replace, or * to replace any",
        )
    known = _tags(*if_match)
    if "*" in known:
        return None
    newest = (await control.current()).revision
    if etag(newest) not in known:
        author = f" by {newest.author}" if newest.author else ""
        raise ConflictError(
            f"If-Match does not name the newest policy, which is {etag(newest)}, revision {newest.number}"
            f"{author}; compare it with yours (policy/diff), then send the change with this ETag"
        )
    return Expected.of(newest)


@router.get(
    "/policy",
    response_model=CurrentPolicy,
    responses=TAGGED
    | error_declarations(422)
    | {304: {"headers": _ETAG, "description": "The policy in force is the one in If-None-Match."}},
)
async def policy(
    control: ControlDependency, response: Response, if_none_match: IfNoneMatch = None
) -> CurrentPolicy | Response:
    """Returns the policy in force, which is the newest accepted one."""
    current = await control.current()
    tag = etag(current.revision)
    known = [known.removeprefix("W/") for known in _tags(if_none_match or "")]
    if tag in known or "*" in known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"etag": tag})
    response.headers["etag"] = tag
    return current


@router.put(
    "/policy",
    dependencies=[Depends(require_write)],
    openapi_extra=IF_MATCH_REQUIRED,
    responses=TAGGED | error_declarations(400, 403, 412, 422, 428, 504),
)
async def put_policy(
    control: ControlDependency, body: PolicyBody, response: Response, if_match: IfMatch = None
) -> AppliedRevision:
    """Puts a policy in force."""
    expected = await _expected(control, if_match)
    applied = await control.apply(body.text, author=body.author, note=body.note, expected=expected)
    return await _applied_response(control, applied, body.wait_s, response)


async def _applied_response(
    control: Control, applied: AppliedRevision, wait_s: float, response: Response
) -> AppliedRevision:
    """Returns the response to a change, after waiting up to `wait_s` until each replica runs it.

    Raises WaitError, and StoreError like Control.wait.
    """
    revision = applied.revision
    if wait_s:
        await control.wait(revision.number, wait_s)
    response.headers["etag"] = etag(revision)
    return applied


@router.post("/policy/validate", responses=error_declarations(400, 422))
async def validate(body: TextBody) -> ValidationResult:
    """Lists the problems of a policy, and advice to its author. Changes nothing."""
    return validate_policy(body.text)


@router.post("/policy/diff", responses=error_declarations(400, 404, 422))
async def diff(control: ControlDependency, body: DiffBody) -> PolicyDiff:
    """Returns what a policy would change, as a unified diff of normal forms. Changes nothing."""
    return PolicyDiff.of(await control.diff(body.text, body.against))


@router.get("/policy/schema")
async def policy_schema() -> dict[str, Any]:
    """Returns the JSON Schema of policies."""
    return schema()


@router.post(
    "/policy/rollback",
    dependencies=[Depends(require_write)],
    openapi_extra=IF_MATCH_REQUIRED,
    responses=TAGGED | error_declarations(400, 403, 404, 412, 422, 428, 504),
)
async def rollback(
    control: ControlDependency, body: RollbackBody, response: Response, if_match: IfMatch = None
) -> AppliedRevision:
    """Puts the text of an earlier revision in force again, as a new revision."""
    expected = await _expected(control, if_match)
    revision = await control.rollback(body.to, author=body.author, note=body.note, expected=expected)
    return await _applied_response(
        control, AppliedRevision(revision=revision, advice=()), body.wait_s, response
    )


@router.post(
    "/policy/restore",
    dependencies=[Depends(require_write)],
    openapi_extra=IF_MATCH_REQUIRED,
    responses=TAGGED | error_declarations(400, 403, 409, 412, 422, 428, 504),
)
async def restore(
    control: ControlDependency, body: ChangeBody, response: Response, if_match: IfMatch = None
) -> AppliedRevision:
    """Writes the policy that the replicas run back to a store that was emptied, as a new revision."""
    expected = await _expected(control, if_match)
    applied = await control.restore(author=body.author, note=body.note, expected=expected)
    return await _applied_response(control, applied, body.wait_s, response)


@router.get("/revisions", responses=error_declarations(422))
async def revisions(control: ControlDependency, query: Annotated[HistoryQuery, Query()]) -> History:
    """Lists the newest revisions, newest first."""
    return History(revisions=await control.history(query.limit))


@router.get("/revisions/{number}", responses=error_declarations(404, 422))
async def revision(
    control: ControlDependency,
    number: Annotated[int, Path(ge=0, le=MAX_EXACT, description="Number of the revision.")],
) -> Revision:
    """Returns one revision, with its text."""
    return await control.revision(number)

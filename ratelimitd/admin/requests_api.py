"""Requests, buckets and replicas over HTTP: explain, check, look up, reset, status."""

from http import HTTPStatus
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, HTTPException, Query, Request

from ratelimitd.admin.admin_keys import Role
from ratelimitd.admin.authentication import require_write
from ratelimitd.admin.dependencies import ControlDependency
from ratelimitd.admin.error_responses import error_declarations
from ratelimitd.admin.request_models import CheckBody, ExplainBody, SubjectQuery
from ratelimitd.control.answers import BucketList, ExplainedRequest, ResetBuckets, Status
from ratelimitd.core import model
from ratelimitd.transport.client import CheckReply


class CheckService(Protocol):
    """Sends a real Check to a running service, as `ratelimitd.transport.client.check_service` does."""

    async def __call__(self, target: str, request: model.Request, /, *, dry_run: bool) -> CheckReply:
        """Returns the reply of the service at `target`. Raises CheckCallError."""


router = APIRouter(prefix="/v1")
SubjectParameters = Annotated[SubjectQuery, Query()]


@router.get("/status")
async def status(control: ControlDependency) -> Status:
    """Returns the newest revision, what each replica runs, and how many requests shadow would have denied."""
    return await control.status()


@router.post("/explain", responses=error_declarations(400, 422))
async def explain(control: ControlDependency, body: ExplainBody) -> ExplainedRequest:
    """Returns what a request would get now, and why. Takes no tokens."""
    return await control.explain(body.request_spec())


@router.get("/buckets", responses=error_declarations(422))
async def buckets(control: ControlDependency, query: SubjectParameters) -> BucketList:
    """Lists the buckets of a user or an address. Scans the whole store."""
    return BucketList(buckets=await control.buckets(query.subject()))


@router.delete("/buckets", dependencies=[Depends(require_write)], responses=error_declarations(403, 422))
async def reset(control: ControlDependency, query: SubjectParameters) -> ResetBuckets:
    """Fills all buckets of a user or an address. Scans the whole store."""
    return ResetBuckets(deleted=await control.reset(query.subject()))


@router.post("/check", responses=error_declarations(400, 403, 422, 502))
async def check(request: Request, body: CheckBody) -> CheckReply:
    """Sends one real Check to a running service. Takes tokens, unless it is a dry run."""
    if not body.dry_run and request.state.role < Role.WRITE:
        raise HTTPException(HTTPStatus.FORBIDDEN, "this key is read-only: set dry_run to true")
    state = request.app.state
    described = body.request_spec().request(state.settings)
    reply: CheckReply = await state.check_service(
        state.settings.admin_check_target, described, dry_run=body.dry_run
    )
    return reply

"""Requests and buckets over HTTP: what a request gets and why, what somebody has left, who runs what."""

from http import HTTPStatus
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, HTTPException, Query, Request

from ratelimitd.admin.admin_keys import Role
from ratelimitd.admin.authentication import may_change
from ratelimitd.admin.error_responses import failing
from ratelimitd.admin.in_time import WALK_S, in_time
from ratelimitd.admin.policy_api import Controlled
from ratelimitd.admin.request_models import CheckBody, QuestionBody, WhoQuery
from ratelimitd.control.answers import BucketList, ExplainedRequest, ResetBuckets, Status
from ratelimitd.core.model import Request as RequestSpec
from ratelimitd.transport.client import CheckReply


class Check(Protocol):
    """One real Check: `ratelimitd.transport.client.ask`."""

    async def __call__(self, target: str, question: RequestSpec, *, dry_run: bool) -> CheckReply:
        """What the service at `target` answers. Raises CheckCallError."""


router = APIRouter(prefix="/v1")
Somebody = Annotated[WhoQuery, Query()]


@router.get("/status")
async def status(control: Controlled) -> Status:
    """The newest policy, which replica runs which, and what would have been denied in shadow."""
    return await in_time(control.status())


@router.post("/explain", responses=failing(400, 422))
async def explain(control: Controlled, body: QuestionBody) -> ExplainedRequest:
    """What a request would get now, and why. It spends nothing."""
    return await in_time(control.explain(body.question()))


@router.get("/buckets", responses=failing(422))
async def buckets(control: Controlled, who: Somebody) -> BucketList:
    """The buckets of a user or of an address. It walks through the whole store."""
    return BucketList(buckets=await in_time(control.buckets(who.who()), WALK_S))


@router.delete("/buckets", dependencies=[Depends(may_change)], responses=failing(403, 422))
async def reset(control: Controlled, who: Somebody) -> ResetBuckets:
    """Makes every bucket of a user or of an address a full one. It walks through the whole store."""
    return ResetBuckets(deleted=await in_time(control.reset(who.who()), WALK_S))


@router.post("/check", responses=failing(400, 403, 422, 502))
async def check(request: Request, body: CheckBody) -> CheckReply:
    """What a running service answers to one real Check. It spends, unless it is a dry run."""
    if not body.dry_run and request.state.role < Role.WRITE:
        raise HTTPException(HTTPStatus.FORBIDDEN, "this key may only look: dry_run must be true")
    state = request.app.state
    question = body.question().request(state.settings)
    reply: CheckReply = await state.check(state.settings.admin_check_target, question, dry_run=body.dry_run)
    return reply

"""Usage and top users over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query

from ratelimitd.admin.dependencies import ControlDependency
from ratelimitd.admin.error_responses import error_declarations
from ratelimitd.admin.request_models import TopQuery, UsageQuery
from ratelimitd.control.usage_answers import TopUsers, Usage

router = APIRouter(prefix="/v1")


@router.get("/usage", responses=error_declarations(422))
async def usage(control: ControlDependency, query: Annotated[UsageQuery, Query()]) -> Usage:
    """Returns the decisions of all replicas in a range that ends now, step by step."""
    return await control.usage(query.range)


@router.get("/top", responses=error_declarations(422))
async def top(control: ControlDependency, query: Annotated[TopQuery, Query()]) -> TopUsers:
    """Returns the users and addresses with the most requests on all replicas, and the error of each."""
    return await control.top_users(denied=query.denied)

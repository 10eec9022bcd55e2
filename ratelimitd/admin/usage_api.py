"""Usage over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query

from ratelimitd.admin.dependencies import ControlDependency
from ratelimitd.admin.error_responses import error_declarations
from ratelimitd.admin.request_models import UsageQuery
from ratelimitd.control.usage_answers import Usage

router = APIRouter(prefix="/v1")


@router.get("/usage", responses=error_declarations(422))
async def usage(control: ControlDependency, query: Annotated[UsageQuery, Query()]) -> Usage:
    """Returns the decisions of all replicas in a range that ends now, step by step."""
    return await control.usage(query.range)

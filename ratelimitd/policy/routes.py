"""Routes as a policy states them. The descriptions become the JSON Schema: they are written for operators."""

from typing import Annotated

from pydantic import Field

from ratelimitd.core.tiers import TIERS
from ratelimitd.policy.field_types import Api, Cost, Maybe, Method, Pattern, StoreAnswer
from ratelimitd.policy.limits import LimitingPart, limit_fields, with_fields
from ratelimitd.policy.part import at_most

MAX_ROUTES = 1000
MAX_METHODS = 20


@with_fields(
    limit_fields(
        {name: f"Replaces the limit of tiers.{name}." for name, tier in TIERS.items() if tier.route_may_limit}
    )
)
class _RouteBase(LimitingPart):
    path: Pattern = Field(
        description="A path such as /api/search; * matches one segment, and ** at the end any number."
    )
    methods: Maybe[
        Annotated[
            tuple[Method, ...],
            Field(strict=False, min_length=1, max_length=MAX_METHODS),
            at_most(MAX_METHODS),
        ]
    ] = Field(None, description="Methods in upper case. Default: any.")
    api: Maybe[Api] = Field(None, description="The name of the API's bucket. Default: the path pattern.")
    cost: Cost = Field(1, description="Tokens that a request takes. A cost of 0 is never denied.")


class RouteEntry(_RouteBase):
    """The rules for requests whose path matches a pattern. The first route that matches a request wins."""

    exempt: bool = Field(default=False, description="Requests take no tokens and are always allowed.")
    shadow: bool = Field(
        default=False, description="Counts the requests that would be denied, and denies none."
    )
    on_store_error: Maybe[StoreAnswer] = Field(
        None, description="The answer while the store is unavailable. Default: the one of the tiers."
    )


Routes = Annotated[tuple[RouteEntry, ...], Field(strict=False, max_length=MAX_ROUTES), at_most(MAX_ROUTES)]

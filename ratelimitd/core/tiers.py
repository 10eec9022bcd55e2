"""The tiers of a request, widest first: one table that policy, decision and operators' tools read.

A tier is a bucket that a request is charged to. Adding one means a member of TierName and a row here; the
policy document, the panel and the explanation follow the table.
"""

from enum import StrEnum
from typing import NamedTuple


class TierName(StrEnum):
    """The name of a tier: in policies, headers, metadata and metrics."""

    GLOBAL = "global"
    USER = "user"
    USER_API = "user_api"


class Tier(NamedTuple):
    """How a tier is keyed, and where a policy may limit it.

    Args:
        name: its name.
        key: its bucket's key below the key prefix. `{identity}` and `{api}` stand for the identity's key and
            the API's name; an `{api}` comes last.
        label: its title for operators.
        meaning: what shares one bucket, for operators.
        required: every policy must have a limit for it, or `off`; the flat form has it. A tier added later is
            optional, and off unless a policy has a limit for it.
        route_may_limit: a route may have its own limit of this tier.
        override_may_limit: an override may have its own limit of this tier.
        leasable: replicas may lease tokens of its bucket, because all requests share it and it has one limit.
            Such a tier comes first.
    """

    name: TierName
    key: str
    label: str
    meaning: str
    required: bool
    route_may_limit: bool
    override_may_limit: bool
    leasable: bool = False


TIERS = {
    tier.name: tier
    for tier in (
        Tier(
            TierName.GLOBAL,
            key="global",
            label="Global",
            meaning="One bucket for all requests",
            required=True,
            route_may_limit=False,
            override_may_limit=False,
            leasable=True,
        ),
        Tier(
            TierName.USER,
            key="user:{identity}",
            label="User",
            meaning="One bucket per user",
            required=True,
            route_may_limit=False,
            override_may_limit=True,
        ),
        Tier(
            TierName.USER_API,
            key="user:{identity}:api:{api}",
            label="User and API",
            meaning="One bucket per user and API",
            required=True,
            route_may_limit=True,
            override_may_limit=True,
        ),
    )
}
"""Every tier by its name, widest first."""

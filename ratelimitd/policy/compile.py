"""Compiles a policy document into the PolicySet that decisions use. A rule is named after its path."""

from collections.abc import Mapping

from ratelimitd.core.identity import plain_key
from ratelimitd.core.model import Limit, OnStoreError
from ratelimitd.core.policy import Override, PolicySet, Route, TierRule
from ratelimitd.core.routes import RouteTable
from ratelimitd.core.tiers import TierName
from ratelimitd.policy.field_types import key_of_address
from ratelimitd.policy.flat_form import Policy, full_form
from ratelimitd.policy.limits import LeasableTierEntry, LimitEntry, LimitingPart, TierEntry
from ratelimitd.policy.overrides import OverrideEntry
from ratelimitd.policy.routes import RouteEntry


def policy_set(policy: Policy, digest: str) -> PolicySet:
    """Returns the policy for the core. `digest` is that of its text, as `digest_of` computes it."""
    full = full_form(policy)
    overrides = full.overrides
    by_identity = {
        plain_key(user): _override(f"overrides.users.{user}", one) for user, one in overrides.users.items()
    } | {
        key_of_address(address) or address: _override(f"overrides.addresses.{address}", one)
        for address, one in overrides.addresses.items()
    }
    return PolicySet(
        digest=digest,
        tiers={name: _tier(tier) for name, tier in full.tiers.items() if tier is not None},
        routes=RouteTable(_route(at, route) for at, route in enumerate(full.routes)) if full.routes else None,
        by_identity=by_identity,
        by_header=_by_value("overrides.headers", overrides.headers),
        by_context=_by_value("overrides.context", overrides.context),
        shadow=full.shadow,
    )


def _limit(entry: LimitEntry) -> Limit:
    return Limit(entry.capacity, entry.tokens_per_s)


def _limits(entry: LimitingPart) -> dict[TierName, Limit]:
    return {name: _limit(limit) for name, limit in entry.limits().items()}


def _on_store_error(text: str | None) -> OnStoreError | None:
    return None if text is None else OnStoreError(text)


def _tier(entry: TierEntry) -> TierRule:
    lease = isinstance(entry, LeasableTierEntry) and entry.lease == "auto"
    return TierRule(_limit(entry), entry.shadow, _on_store_error(entry.on_store_error), lease)


def _route(at: int, entry: RouteEntry) -> Route:
    return Route(
        name=f"routes[{at}]",
        pattern=entry.path,
        methods=None if entry.methods is None else frozenset(entry.methods),
        api=entry.path if entry.api is None else entry.api,
        cost=entry.cost,
        limits=_limits(entry),
        exempt=entry.exempt,
        shadow=entry.shadow,
        on_store_error=_on_store_error(entry.on_store_error),
    )


def _override(name: str, entry: OverrideEntry) -> Override:
    return Override(
        name=name,
        limits=_limits(entry),
        exempt=entry.exempt,
        blocked=entry.blocked,
        shadow=entry.shadow,
    )


def _by_value(
    path: str, overrides: Mapping[str, Mapping[str, OverrideEntry]]
) -> dict[str, dict[str, Override]]:
    return {
        name: {value: _override(f"{path}.{name}.{value}", one) for value, one in values.items()}
        for name, values in overrides.items()
    }

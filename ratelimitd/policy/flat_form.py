"""The flat form of a policy: two numbers for each required tier, and nothing else."""

from typing import Any

from ratelimitd.core.tiers import TIERS
from ratelimitd.policy.document import PolicyDocument
from ratelimitd.policy.field_types import Capacity, Rate
from ratelimitd.policy.limits import LeasableTierEntry, with_fields
from ratelimitd.policy.part import Part

FLAT_TIERS = tuple(name for name, tier in TIERS.items() if tier.required)


@with_fields(
    {
        f"{name}_{number}": (kind, ...)
        for name in FLAT_TIERS
        for number, kind in (("capacity", Capacity), ("rate", Rate))
    }
)
class FlatPolicy(Part):
    """The flat form: each tier's capacity in tokens, and its rate in tokens per second."""


Policy = FlatPolicy | PolicyDocument


def full_form(policy: Policy) -> PolicyDocument:
    """Returns the same policy in the full form."""
    if isinstance(policy, PolicyDocument):
        return policy
    tiers = {
        name.value: {
            "capacity": getattr(policy, f"{name}_capacity"),
            "refill_rate": getattr(policy, f"{name}_rate"),
        }
        for name in FLAT_TIERS
    }
    return PolicyDocument.model_validate({"tiers": tiers})


def flat_form(policy: Policy) -> FlatPolicy | None:
    """Returns the limits of the flat form's tiers, dropping the rest. None when one of these tiers is off."""
    if isinstance(policy, FlatPolicy):
        return policy
    tiers = dict(policy.tiers.items())
    numbers: dict[str, Any] = {}
    for name in FLAT_TIERS:
        tier = tiers[name]
        if tier is None:
            return None
        numbers |= {f"{name}_capacity": tier.capacity, f"{name}_rate": tier.tokens_per_s}
    return FlatPolicy.model_validate(numbers)


def not_flat(policy: Policy) -> list[str]:
    """Returns the paths of what the flat form cannot express, such as `tiers.user.shadow`."""
    if isinstance(policy, FlatPolicy):
        return []
    present: dict[str, object] = {"shadow": policy.shadow, "routes": policy.routes}
    present |= {f"overrides.{name}": group for name, group in policy.overrides}
    for name, tier in policy.tiers.items():
        if name not in FLAT_TIERS:
            present[f"tiers.{name}"] = tier
        elif tier is None:
            present[f"tiers.{name}: off"] = True
        else:
            present[f"tiers.{name}.shadow"] = tier.shadow
            present[f"tiers.{name}.on_store_error"] = tier.on_store_error
            present[f"tiers.{name}.lease"] = isinstance(tier, LeasableTierEntry) and tier.lease == "auto"
    return [path for path, value in present.items() if value]

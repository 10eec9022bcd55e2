"""Policy and identity -> the buckets that a request spends from. Keys are bounded by users times patterns."""

from functools import lru_cache

from ratelimitd.core.model import Identity, PolicySet, Request, TakeRequest, Tier, TierName

ANY_API = "*"
"""The pattern of a request whose route says none: a raw path would let a client make keys without end."""

REMEMBERED = 4096
"""Users on an API whose buckets need not be named again: those who ask most, and who are denied most."""


def match(policy: PolicySet, request: Request, identity: Identity, key_prefix: str) -> TakeRequest:
    """The three tiers, widest first. An identity's key holds no colon, a pattern may."""
    return _spend(policy, identity.key, request.api or ANY_API, key_prefix)


@lru_cache(maxsize=REMEMBERED)
def _spend(policy: PolicySet, identity_key: str, api: str, key_prefix: str) -> TakeRequest:
    limits = policy.limits
    user_key = f"{key_prefix}:user:{identity_key}"
    return TakeRequest(
        (
            Tier(TierName.GLOBAL, f"{key_prefix}:global", limits[TierName.GLOBAL]),
            Tier(TierName.USER, user_key, limits[TierName.USER]),
            Tier(TierName.USER_API, f"{user_key}:api:{api}", limits[TierName.USER_API]),
        )
    )

"""Policy and identity -> the buckets that a request spends from. Keys are bounded by users times patterns."""

from ratelimitd.core.model import Identity, PolicySet, Request, TakeRequest, Tier, TierName

ANY_API = "*"
"""The pattern of a request whose route says none: a raw path would let a client make keys without end."""


def match(policy: PolicySet, request: Request, identity: Identity, key_prefix: str) -> TakeRequest:
    """One tier per limit of the policy, widest first. An identity's key holds no colon, a pattern may."""
    user_key = f"{key_prefix}:user:{identity.key}"
    keys = {
        TierName.GLOBAL: f"{key_prefix}:global",
        TierName.USER: user_key,
        TierName.USER_API: f"{user_key}:api:{request.api or ANY_API}",
    }
    return TakeRequest(tuple(Tier(name, keys[name], limit) for name, limit in policy.limits.items()))

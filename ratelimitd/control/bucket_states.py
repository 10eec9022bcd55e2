"""Describe what the store holds at the keys of an identity's buckets."""

from ratelimitd.control.answers import BucketState
from ratelimitd.core.bucket import Bucket, refill
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.match import limit_for
from ratelimitd.core.model import Identity, Limit
from ratelimitd.core.policy import PolicySet
from ratelimitd.store.buckets import Stored


def bucket_states(
    stored: Stored, policy: PolicySet, identity: Identity, layout: KeyLayout
) -> list[BucketState]:
    """Returns the states of the keys that are a bucket's, in the order of the keys."""
    states = []
    for key in sorted([*stored.buckets, *stored.not_buckets]):
        named = layout.parse(key)
        if named is None:
            continue
        limit = limit_for(policy, named.tier, identity, named.api)
        bucket = stored.buckets.get(key)
        states.append(
            BucketState(
                key=key,
                tier=named.tier,
                api=named.api,
                shadow=named.shadow,
                tokens=_tokens(bucket, limit, stored.now_us),
                capacity=None if limit is None else limit.capacity,
                refill_rate=None if limit is None else limit.refill_rate,
                last_us=0 if bucket is None else bucket.last,
                no_refill_for_us=0 if bucket is None else max(0, bucket.last - stored.now_us),
                not_a_bucket=stored.not_buckets.get(key),
            )
        )
    return states


def _tokens(bucket: Bucket | None, limit: Limit | None, now_us: int) -> int:
    """Microtokens now; without a limit those that were counted last."""
    if limit is None:
        return 0 if bucket is None else bucket.tokens
    return refill(bucket, limit, now_us).tokens

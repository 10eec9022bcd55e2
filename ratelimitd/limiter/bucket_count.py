"""What a count of the store says about a bucket later: the most and the least that it can hold.

Other requests only lower a bucket, so it holds at most the tokens counted plus the refill since the call was
sent. It holds at least the tokens counted plus the refill since the answer was received, less what others can
have spent since (docs/adr/0019-a-local-wait-is-enough.md):

- nothing while the bucket, or a wider one of the same count, has less than a token: costs are whole tokens,
  and every request that spends from a bucket also spends from the wider ones, unless they are leased;
- otherwise an amount that no store can take in that time.

All this needs limits that stay equal, a local clock that runs as fast as the store's, and buckets without a
`last` in the future.
"""

from collections.abc import Iterator
from math import floor
from typing import NamedTuple

from ratelimitd.core.bucket import wait_us
from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest

ROUNDING = 2
"""Microtokens by which the refill after a count may be more than computed here.

The store computes one refill from `last` until now; here it has two parts, each rounded down, which may lose
one microtoken. The other covers a double product that the store rounds up to a whole number.
"""

SMALLEST_COST = MICRO
"""Microtokens that a request takes at least, for costs are whole tokens. A bucket with less loses nothing."""

SPENT_AT_ONCE = 1000 * MICRO
SPENT_PER_US = MICRO
"""Microtokens that others can have taken from a bucket since its count, at most: 1000 tokens and one more per
microsecond, which is more than a store can do. Without this bound, a user whom a narrow bucket denies would
cost a call per denial, only because a wide bucket that refills slowly could have been emptied.
"""


class BucketCount(NamedTuple):
    """The tokens of a bucket, which the store counted between two local instants.

    Args:
        limit: the bucket's limit.
        tokens: microtokens that the store counted.
        sent_us: when its call was sent.
        received_us: when its answer arrived.
        unspent_until_us: until then, nobody can have spent from the bucket since the count.
    """

    limit: Limit
    tokens: int
    sent_us: int
    received_us: int
    unspent_until_us: int

    def at_most(self, now_us: int) -> int:
        """Microtokens that the bucket cannot exceed."""
        refilled = floor((now_us - self.sent_us) * self.limit.refill_rate)
        return min(self.limit.capacity_micro, self.tokens + refilled + ROUNDING)

    def unspent(self, now_us: int) -> int:
        """Microtokens that the bucket has at least, if nobody has spent since the count."""
        refilled = floor((now_us - self.received_us) * self.limit.refill_rate)
        return min(self.limit.capacity_micro, self.tokens + refilled)

    def at_least(self, now_us: int) -> int:
        """Microtokens that the bucket has at least, whatever others have spent."""
        unspent = self.unspent(now_us)
        if now_us < self.unspent_until_us:
            return unspent
        return max(0, unspent - SPENT_AT_ONCE - SPENT_PER_US * (now_us - self.sent_us))


def counts_of(
    request: TakeRequest, denial: Outcome, sent_us: int, received_us: int
) -> Iterator[tuple[str, BucketCount]]:
    """The counts in a denial by the store, by key, from the widest bucket to the narrowest."""
    charge, keys, _ = request
    wider_until_us = sent_us
    # The keys of buckets in shadow, at the end, have no tokens here.
    for at, (key, limit, tokens) in enumerate(zip(keys, charge.limits, denial.tokens, strict=False)):
        if tokens is not None:
            refills_us = wait_us(SMALLEST_COST - ROUNDING - tokens, limit.refill_rate)
            unspent_until_us = max(wider_until_us, sent_us + refills_us)
            yield key, BucketCount(limit, tokens, sent_us, received_us, unspent_until_us)
            if at != charge.leased:  # leased tokens pay for requests while their bucket is empty
                wider_until_us = unspent_until_us

"""The values that a decision is made of. Each is immutable and valid once built.

Values that every decision builds anew are named tuples: a frozen dataclass takes three times as long.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

MICRO = 1_000_000
"""Microtokens in a token. Buckets count in whole microtokens, so rounding errors never add up to a token.

It is also microseconds in a second, so a refill rate in tokens per second is the same number in microtokens
per microsecond.
"""

MAX_EXACT = 1 << 53
"""Largest range in which a double, the number type of Lua and of JSON readers, holds every whole number."""

new = tuple.__new__
"""Builds a named tuple from a tuple of all its fields: `new(Limit, (5, 1.0))`.

It takes half the time of calling the class, and each decision builds six.
"""


class Request(NamedTuple):
    """An HTTP request as Envoy describes it.

    Args:
        method: upper-case, as sent.
        path: without the query.
        host: the authority that the client asked for.
        headers: by lower-case name; duplicates of a header are joined with a comma, and bytes that are not
            UTF-8 are surrogate escapes (PEP 383).
        peer_address: the client's IP address as Envoy sees it, without a port.
        context: what the operator attached to the route in Envoy (context_extensions).
        traceparent: the trace that the call belongs to (W3C Trace Context), empty when it has none.
    """

    method: str
    path: str
    host: str
    headers: Mapping[str, str]
    peer_address: str
    context: Mapping[str, str]
    traceparent: str = ""


class Identity(NamedTuple):
    """The user or address that is charged.

    Args:
        kind: the source that found it: `header`, `address` or `anonymous`.
        key: its name, safe inside the key of a bucket.
    """

    kind: str
    key: str


class Limit(NamedTuple):
    """The size of a bucket in tokens, and its refill in tokens per second. Both are above 0 and finite."""

    capacity: int
    refill_rate: float

    @property
    def capacity_micro(self) -> int:
        """The capacity in microtokens."""
        return self.capacity * MICRO


@dataclass(frozen=True, slots=True, eq=False)
class Charge:
    """A cost and the limits that it is checked against, shared by all requests with the same rules.

    A charge equals only itself, so it can be a cheap key of a cache.

    Args:
        cost: microtokens that are taken from each bucket.
        limits: of the buckets that can deny.
        shadow: of the buckets in shadow, which cannot deny.
        leased: the index among the limits and those in shadow of the bucket whose tokens are leased, or None.
            It is the first that can deny or the first in shadow.
        for_lease: the take is of a lease, not of a request.
    """

    cost: int
    limits: tuple[Limit, ...]
    shadow: tuple[Limit, ...] = ()
    leased: int | None = None
    for_lease: bool = False


class TakeRequest(NamedTuple):
    """Takes the charge's cost from every bucket that can deny, or from none of them.

    Once those can pay, the cost is also taken from every bucket in shadow, or from none of these.

    Args:
        charge: the cost and the limits.
        keys: the buckets, one for each limit of the charge, those in shadow last; all differ.
        dry_run: takes nothing. The outcome is the real one, with the tokens that are there now.
    """

    charge: Charge
    keys: tuple[str, ...]
    dry_run: bool = False


class Outcome(NamedTuple):
    """The result of a TakeRequest.

    Args:
        allowed: every bucket that can deny could pay.
        tokens: microtokens left in these buckets, in their order. None stands for a bucket whose tokens are
            not known: an allowed outcome knows all of them, a denied one at least the one that denied. They
            are negative only in a denial, for a bucket whose `last` is in the future.
        shadow: the outcome of the buckets in shadow; None when there are none, and when the request was
            denied before they were looked at.
        refill_withheld: the request was denied, and the `last` of one of its buckets is in the future. The
            tokens say how long to wait, but not what a cheaper request would get.
        local: the limiter knew the outcome without asking the store.
    """

    allowed: bool
    tokens: tuple[int | None, ...]
    shadow: "Outcome | None" = None
    refill_withheld: bool = False
    local: bool = False


class OnStoreError(StrEnum):
    """The reply when the store cannot decide."""

    DENY = "deny"
    """503."""

    ALLOW = "allow"
    """The request goes on."""

    ENVOY = "envoy"
    """503, unless Envoy's `failure_mode_allow` lets the request go on."""

    LOCAL = "local"
    """The replica decides from memory, with its share of every limit."""


class Verdict(StrEnum):
    """The five ways to decide a request."""

    ALLOWED = "allowed"
    """Every tier could pay, or all tiers are off."""

    DENIED = "denied"
    """A tier could not pay."""

    BLOCKED = "blocked"
    """An override refuses the request."""

    EXEMPT = "exempt"
    """A route or an override lets the request go on without taking tokens."""

    UNDECIDED = "undecided"
    """The store gave no answer."""

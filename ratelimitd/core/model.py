"""The values of a decision. Each is immutable and valid once built.

Those that every decision builds anew are tuples with names: a frozen dataclass takes three times as long.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

MICRO = 1_000_000
"""Microtokens in a token. Buckets count in whole microtokens: no rounding error can ever add up to a token.

It is also microseconds in a second, so a refill rate in tokens per second is the same number in microtokens
per microsecond.
"""

MAX_EXACT = 1 << 53
"""Largest range in which a double, the number type of Lua and of JSON readers, holds every whole number."""


class Request(NamedTuple):
    """An HTTP request as Envoy describes it.

    `path` has no query; header names are lower-case; duplicates of a header are joined with a comma; bytes
    that are not UTF-8 are surrogate escapes (PEP 383). `context` is what the operator attached to the route.
    `traceparent` names the trace of the call (W3C Trace Context) and is empty when it has none.
    """

    method: str
    path: str
    host: str
    headers: Mapping[str, str]
    peer_address: str
    context: Mapping[str, str]
    traceparent: str = ""


class Identity(NamedTuple):
    """Who is charged. `key` is safe inside a bucket's key; `kind` says which source it came from."""

    kind: str
    key: str


class TierName(StrEnum):
    """The three buckets that a request spends from, widest first."""

    GLOBAL = "global"
    USER = "user"
    USER_API = "user_api"


class Limit(NamedTuple):
    """A bucket's size in tokens and its refill in tokens per second. Both are above 0 and finite."""

    capacity: int
    refill_rate: float

    @property
    def capacity_micro(self) -> int:
        """The capacity in microtokens."""
        return self.capacity * MICRO


@dataclass(frozen=True, slots=True, eq=False)
class Charge:
    """What all requests of a kind take, whoever sends them. Equal to itself alone.

    Args:
        cost: in microtokens, from each bucket.
        limits: those of the buckets that can deny.
        shadow: those of the buckets that cannot.
    """

    cost: int
    limits: tuple[Limit, ...]
    shadow: tuple[Limit, ...] = ()


class TakeRequest(NamedTuple):
    """Take the charge's cost from every bucket, or from none.

    `keys` are the buckets, one for each limit of the charge, those in shadow last; all differ. When those
    that can deny could pay, the cost is taken from all in shadow, or from none of these. With `look` nothing
    is taken: the outcome is the real one, with the tokens before it.
    """

    charge: Charge
    keys: tuple[str, ...]
    look: bool = False


class Outcome(NamedTuple):
    """What a TakeRequest got. `tokens` are the microtokens left in the buckets that can deny, in their order.

    None is a bucket of which nothing is known. An allowed outcome knows all of them, a denied one at least
    the one that said no. `shadow` is the outcome of the buckets in shadow; None when there are none, and when
    the request was denied without them.
    """

    allowed: bool
    tokens: tuple[int | None, ...]
    shadow: "Outcome | None" = None


class OnStoreError(StrEnum):
    """The answer when the store cannot decide: 503, go ahead, or let Envoy's failure_mode_allow choose."""

    DENY = "deny"
    ALLOW = "allow"
    ENVOY = "envoy"


class Reply(StrEnum):
    """Which of CheckResponse's three answers is given."""

    OK = "ok_response"
    DENIED = "denied_response"
    ERROR = "error_response"


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What many requests are told alike. Equal to itself alone, so its bytes can be remembered by it.

    Args:
        reply: which kind of answer.
        http_status: for the client; unused with `Reply.OK`, as is `body`.
        headers: names are lower-case, each at most once; values are printable ASCII. With `Reply.OK` they are
            added to the upstream's answer.
        body: for the client.
        metadata: reaches Envoy's access log.
    """

    reply: Reply
    http_status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    metadata: tuple[tuple[str, str], ...] = ()


class Answer(NamedTuple):
    """What Envoy is told.

    Args:
        verdict: what others are told too.
        rate_limit: the header `ratelimit`; none when empty.
        remaining: whole tokens in the bucket that decided, for the access log; None where none did.
    """

    verdict: Verdict
    rate_limit: str = ""
    remaining: int | None = None

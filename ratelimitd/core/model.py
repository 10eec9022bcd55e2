"""The values of a decision. Each is immutable and valid once built."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

MICRO = 1_000_000
"""Microtokens in a token. Buckets count in whole microtokens: no rounding error can ever add up to a token.

It is also microseconds in a second, so a refill rate in tokens per second is the same number in microtokens
per microsecond.
"""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request as Envoy describes it.

    `path` has no query; header names are lower-case; duplicates of a header are joined with a comma; bytes
    that are not UTF-8 are surrogate escapes (PEP 383). `api` is the route pattern that the operator attached.
    """

    method: str
    path: str
    host: str
    headers: Mapping[str, str]
    peer_address: str
    api: str | None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is charged. `key` is safe inside a bucket's key; `kind` says which source it came from."""

    kind: str
    key: str


class TierName(StrEnum):
    """The three buckets that a request spends from, widest first."""

    GLOBAL = "global"
    USER = "user"
    USER_API = "user_api"


@dataclass(frozen=True, slots=True)
class Limit:
    """A bucket's size in tokens and its refill in tokens per second. Both are above 0 and finite."""

    capacity: int
    refill_rate: float

    @property
    def capacity_micro(self) -> int:
        """The capacity in microtokens."""
        return self.capacity * MICRO


@dataclass(frozen=True, slots=True)
class PolicySet:
    """The limits in force. `revision` names this content: equal limits have equal revisions everywhere."""

    revision: str
    limits: Mapping[TierName, Limit]


@dataclass(frozen=True, slots=True)
class Tier:
    """One bucket that a request spends from: its name, its key in the store and its limit."""

    name: TierName
    key: str
    limit: Limit


@dataclass(frozen=True, slots=True)
class TakeRequest:
    """Take `cost` microtokens from every tier, or from none. Keys within one request differ."""

    tiers: tuple[Tier, ...]
    cost: int = MICRO


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a TakeRequest got. `tokens` are the microtokens left, tier by tier in the request's order."""

    allowed: bool
    tokens: tuple[int, ...]


class OnStoreError(StrEnum):
    """The answer when the store cannot decide: 503, go ahead, or let Envoy's failure_mode_allow choose."""

    DENY = "deny"
    ALLOW = "allow"
    ENVOY = "envoy"


class Reply(Enum):
    """Which of CheckResponse's three answers is given."""

    OK = "ok_response"
    DENIED = "denied_response"
    ERROR = "error_response"


@dataclass(frozen=True, slots=True)
class Answer:
    """What Envoy is told. Header names are lower-case, each at most once; values are printable ASCII.

    `http_status` and `body` are for the client and unused with `Reply.OK`, whose headers are added to the
    upstream's answer. `metadata` reaches Envoy's access log.
    """

    reply: Reply
    http_status: int
    headers: tuple[tuple[str, str], ...]
    body: str
    metadata: Mapping[str, str | int]

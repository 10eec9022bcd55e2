"""The answers about usage and top users. See `control/answers.py` for the units."""

from pydantic import Field

from ratelimitd.control.answers import Answer, Tokens
from ratelimitd.core.tiers import TierName
from ratelimitd.instants import Instant
from ratelimitd.usage.ranges import UsageRange


class DecisionTotals(Answer):
    """Decisions by outcome, and denied ones also by tier.

    `local` is how many of all these needed no call to the store. `degraded` is how many replicas decided
    from memory, because the store could not.
    """

    allowed: int = 0
    denied: int = 0
    blocked: int = 0
    exempt: int = 0
    undecided: int = 0
    denied_by: dict[TierName, int] = Field(default_factory=lambda: dict.fromkeys(TierName, 0))
    local: int = 0
    degraded: int = 0

    @property
    def requests(self) -> int:
        """All decisions."""
        return self.allowed + self.denied + self.blocked + self.exempt + self.undecided


class UsageStep(DecisionTotals):
    """The decisions of all replicas in one step of a range.

    `at` is the beginning of the step. `complete`: no more counts are expected. The last one or two steps are
    not complete; their counts are still growing. `global_tokens` are the tokens in the global bucket at the
    end of the step, `global_capacity` is its size; both are null when the tier is off or no replica reported.
    `store_p50_s` and `store_p99_s` are the durations of calls to the store, null without calls. `replicas`
    reported in this step. `revision` is the policy that the last of them ran, null when none reported.
    """

    at_us: Instant = Field(serialization_alias="at")
    complete: bool = True
    global_tokens: Tokens | None = None
    global_capacity: int | None = None
    store_p50_s: float | None = None
    store_p99_s: float | None = None
    replicas: int = 0
    revision: int | None = None


class ApiUsage(Answer):
    """The requests of one API in a range that were allowed or denied.

    `per_step` counts both in each of the steps of `api_step_s`.
    """

    api: str
    allowed: int
    denied: int
    per_step: list[int]


class RevisionMark(Answer):
    """A change of the policy within a range."""

    number: int
    at_us: Instant = Field(serialization_alias="at")
    author: str
    note: str


class Usage(Answer):
    """The decisions of all replicas in a range.

    `steps` are in order of time and without a gap. `step_s` is their length; the last one has begun and is
    not over. `apis` are sorted by requests, most first; the first step of each begins at `api_from`, which
    may be before the range, and all have the length `api_step_s`. `revisions` are in order of time. `totals`
    counts the decisions in the steps, `cumulative` those since the store was set up, both on all replicas,
    including ended ones. `store_p50_s` and `store_p99_s` are for the whole range. `warnings` says what may be
    missing.
    """

    range: UsageRange
    at_us: Instant = Field(serialization_alias="at")
    step_s: int
    steps: list[UsageStep]
    api_step_s: int
    api_from_us: Instant = Field(serialization_alias="api_from")
    apis: list[ApiUsage]
    revisions: list[RevisionMark]
    totals: DecisionTotals
    cumulative: DecisionTotals
    store_p50_s: float | None = None
    store_p99_s: float | None = None
    warnings: list[str] = Field(default_factory=list)


class TopUser(Answer):
    """A user or an address among those with the most requests.

    The true count is between `requests - error` and `requests`. `kind` and `key` are the identity's; `name`
    is the key as people read it. The kind is `hashed`, and key and name are a hash, where the replica's
    setting `top_users` says so.
    """

    kind: str
    key: str
    name: str
    requests: int
    error: int


class TopUsers(Answer):
    """The users with the most requests on all replicas, most first.

    `denied`: only denied requests count. They are counted over the last `window_s` seconds, and `total` is
    their number, which is exact. A user that is not listed has at most `error_bound` requests. `mode` is the
    setting `top_users` of the replicas: `on`, `hashed`, `off`, `mixed` if they differ, and null if there is
    no replica. `warnings` says what may be missing.
    """

    at_us: Instant = Field(serialization_alias="at")
    denied: bool
    window_s: int
    total: int
    error_bound: int
    mode: str | None
    users: list[TopUser]
    warnings: list[str] = Field(default_factory=list)

    def share(self, user: TopUser) -> float:
        """Returns the user's part of all requests, from 0 to 1."""
        return min(1.0, user.requests / self.total) if self.total else 0.0

    def rate_per_s(self, user: TopUser) -> float:
        """Returns the user's requests per second, on average over the window."""
        return user.requests / max(1, self.window_s)

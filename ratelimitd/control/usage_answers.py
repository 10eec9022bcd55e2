"""The answers about usage and top users. See `control/answers.py` for the units."""

from pydantic import Field

from ratelimitd.control.answers import Answer, Tokens
from ratelimitd.core.tiers import TierName
from ratelimitd.instants import Instant
from ratelimitd.usage.ranges import UsageRange


class UsageStep(Answer):
    """The decisions of all replicas in one step of a range.

    `at` is the beginning of the step. `denied_by` has a count for each tier. `local` counts the decisions
    that needed no call to the store. `global_tokens` are those in the global bucket at the end of the step,
    `global_capacity` is its size; both are null when the tier is off or nothing was reported. `store_p50_s`
    and `store_p99_s` are the durations of calls to the store, null without calls. `replicas` reported in this
    step. `revision` is the newest policy that one of them ran, null when none reported.
    """

    at_us: Instant = Field(serialization_alias="at")
    allowed: int = 0
    denied: int = 0
    blocked: int = 0
    exempt: int = 0
    undecided: int = 0
    denied_by: dict[TierName, int] = Field(default_factory=dict)
    local: int = 0
    global_tokens: Tokens | None = None
    global_capacity: int | None = None
    store_p50_s: float | None = None
    store_p99_s: float | None = None
    replicas: int = 0
    revision: int | None = None


class ApiUsage(Answer):
    """The requests of one API in a range. `per_step` counts them in each of the steps of `api_step_s`."""

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

    `steps` are in order of time and without a gap; the last one may be incomplete. `step_s` is their length.
    `apis` are sorted by requests, most first; their steps have the length `api_step_s` and may begin before
    the range. `totals` counts the decisions in the range by outcome. `warnings` says what may be missing.
    """

    range: UsageRange
    at_us: Instant = Field(serialization_alias="at")
    step_s: int
    steps: list[UsageStep]
    api_step_s: int
    apis: list[ApiUsage]
    revisions: list[RevisionMark]
    totals: dict[str, int]
    warnings: list[str] = Field(default_factory=list)


class TopUser(Answer):
    """A user or an address among those with the most requests.

    `requests` is at most `error` too high; the true count is between `requests - error` and `requests`.
    `kind` and `key` are the identity's; the key is a hash when RATELIMITD_TOP_USERS is `hashed`.
    """

    kind: str
    key: str
    requests: int
    error: int


class TopUsers(Answer):
    """The users with the most requests on all replicas, most first.

    `denied`: only denied requests count. `window_s`: they are counted over this time. `total` is the number
    of requests counted. A user that is not listed has at most `error_bound` requests. `mode`: `on`, `hashed`
    or `off`, as the replicas have it.
    """

    at_us: Instant = Field(serialization_alias="at")
    denied: bool
    window_s: int
    total: int
    error_bound: int
    mode: str
    users: list[TopUser]

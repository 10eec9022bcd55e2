"""What operators are answered, as JSON: the same of the command line's `--json` and of the admin service.

Tokens are tokens, waits are in seconds (`_s`), instants are ISO 8601 in UTC with milliseconds (`_at`, `at`).
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict

from ratelimitd.control.control import Applied, BucketState, Current, Reading, Status
from ratelimitd.core.explain import Explanation, TierState
from ratelimitd.core.model import MICRO, TierName
from ratelimitd.errors import Problem
from ratelimitd.policy.replicas import Replica
from ratelimitd.policy.revisions import Revision

if TYPE_CHECKING:  # it brings gRPC, which only `check` needs
    from ratelimitd.transport.ask import Asked


MAX_US = 1 << 53
"""In the year 2255. A later instant is of somebody's hand in the store; it must not end an answer."""


def instant(at_us: int) -> str:
    """An instant, in us since the epoch, as people and programs read it: 2026-01-31T12:00:00.123Z."""
    whole, rest = divmod(min(max(at_us, 0), MAX_US), MICRO)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:03d}Z"


class Shape(BaseModel):
    """What all have in common: nobody changes an answer."""

    model_config = ConfigDict(frozen=True)


class ProblemShape(Shape):
    """Where something is wrong, and why. An empty path is the whole text."""

    path: str
    reason: str

    @classmethod
    def all_of(cls, problems: Iterable[Problem]) -> list[Self]:
        """All of these, in their order."""
        return [cls(path=problem.path, reason=problem.reason) for problem in problems]


class RevisionShape(Shape):
    """A revision without its text. Number 0 is the defaults, which nobody accepted: its `at` is null."""

    number: int
    sha256: str
    at: str | None
    author: str
    note: str

    @classmethod
    def of(cls, revision: Revision) -> Self:
        """The shape of a revision."""
        return cls.model_validate(
            {
                "number": revision.number,
                "sha256": revision.sha256,
                "at": instant(revision.at_us) if revision.at_us else None,
                "author": revision.author,
                "note": revision.note,
                "text": revision.text,
            }
        )


class RevisionTextShape(RevisionShape):
    """A revision with its text, as it was written."""

    text: str


class CurrentShape(Shape):
    """The newest accepted policy. `refused` says why the text in the store is another, and not in force."""

    revision: RevisionTextShape
    refused: list[ProblemShape]

    @classmethod
    def of(cls, current: Current) -> Self:
        """The shape of what is current."""
        return cls(
            revision=RevisionTextShape.of(current.revision), refused=ProblemShape.all_of(current.refused)
        )


class ReadingShape(Shape):
    """What a text is worth. `advice` is what its author may have missed; it stops nothing."""

    valid: bool
    problems: list[ProblemShape]
    advice: list[ProblemShape]

    @classmethod
    def of(cls, reading: Reading) -> Self:
        """The shape of a reading."""
        return cls(
            valid=not reading.problems,
            problems=ProblemShape.all_of(reading.problems),
            advice=ProblemShape.all_of(reading.advice),
        )


class AppliedShape(Shape):
    """A revision that was accepted, and what its author may have missed."""

    revision: RevisionShape
    advice: list[ProblemShape]

    @classmethod
    def of(cls, applied: Applied) -> Self:
        """The shape of what was applied."""
        return cls(revision=RevisionShape.of(applied.revision), advice=ProblemShape.all_of(applied.advice))


class DiffShape(Shape):
    """A unified diff of two policies in normal form. `same`: they mean the same, and it is empty."""

    same: bool
    diff: str

    @classmethod
    def of(cls, diff: str) -> Self:
        """The shape of a diff."""
        return cls(same=not diff, diff=diff)


class HistoryShape(Shape):
    """The newest revisions, newest first, without their texts."""

    revisions: list[RevisionShape]

    @classmethod
    def of(cls, revisions: Iterable[Revision]) -> Self:
        """The shape of a history."""
        return cls(revisions=[RevisionShape.of(revision) for revision in revisions])


class ReplicaShape(Shape):
    """A running service, and the policy that it has in force. `behind`: a newer one was accepted.

    `revision` is the first 12 digits of the SHA-256 of its text; `refused` says why the text in the store is
    not in force.
    """

    id: str
    version: str
    transport: str
    number: int
    revision: str
    behind: bool
    refused: str | None
    started_at: str
    seen_at: str

    @classmethod
    def of(cls, replica: Replica, newest: int) -> Self:
        """The shape of a replica, when `newest` is the newest revision."""
        return cls(
            id=replica.id,
            version=replica.version,
            transport=replica.transport,
            number=replica.number,
            revision=replica.revision,
            behind=replica.number < newest,
            refused=replica.refused,
            started_at=instant(replica.started_us),
            seen_at=instant(replica.seen_us),
        )


class StatusShape(Shape):
    """What runs where. `shadow` counts, by name in the policy's text, what would have been denied."""

    at: str
    revision: RevisionShape
    refused: list[ProblemShape]
    replicas: list[ReplicaShape]
    shadow: dict[str, int]

    @classmethod
    def of(cls, status: Status) -> Self:
        """The shape of a status."""
        newest = status.revision.number
        return cls(
            at=instant(status.now_us),
            revision=RevisionShape.of(status.revision),
            refused=ProblemShape.all_of(status.refused),
            replicas=[ReplicaShape.of(replica, newest) for replica in status.replicas],
            shadow=status.shadow,
        )


class IdentityShape(Shape):
    """Who is charged: by which kind of source, and under which key."""

    kind: str
    key: str


class TierShape(Shape):
    """A tier of a request as it stands now. The waits hold if nobody spends meanwhile; 0 is now.

    `enough`: it could pay. `reset_after_s`: until it is full. `shadow`: it cannot deny.
    """

    name: TierName
    key: str
    shadow: bool
    tokens: float
    capacity: int
    refill_rate: float
    enough: bool
    retry_after_s: float
    reset_after_s: float

    @classmethod
    def of(cls, state: TierState) -> Self:
        """The shape of a tier."""
        return cls(
            name=state.name,
            key=state.key,
            shadow=state.shadow,
            tokens=state.tokens / MICRO,
            capacity=state.limit.capacity,
            refill_rate=state.limit.refill_rate,
            enough=state.enough,
            retry_after_s=state.retry_after_us / MICRO,
            reset_after_s=state.reset_after_us / MICRO,
        )


class ExplanationShape(Shape):
    """What a request would get, and why. `cost` is in tokens, from each tier.

    `retry_after_s` is null unless it is denied; `more` says how many such requests at once would be allowed,
    and is null when no bucket bounds them. `tiers` are those that can deny, then those in shadow.
    """

    identity: IdentityShape
    route: str | None
    override: str | None
    cost: float
    outcome: Literal["allowed", "denied", "blocked", "exempt"]
    reason: str
    denied_by: TierName | None
    shadow: str | None
    tiers: list[TierShape]
    retry_after_s: float | None
    more: int | None

    @classmethod
    def of(cls, explanation: Explanation) -> Self:
        """The shape of an explanation."""
        wait_us = explanation.retry_after_us
        return cls.model_validate(
            explanation._asdict()
            | {
                "identity": explanation.identity._asdict(),
                "cost": explanation.cost / MICRO,
                "tiers": [TierShape.of(state) for state in explanation.tiers],
                "retry_after_s": None if wait_us is None else wait_us / MICRO,
            }
        )


class BucketShape(Shape):
    """One bucket. Its limit holds without regard to headers and context, and is null when its tier is off."""

    key: str
    tier: TierName
    api: str | None
    shadow: bool
    tokens: float
    capacity: int | None
    refill_rate: float | None
    last_at: str

    @classmethod
    def of(cls, state: BucketState) -> Self:
        """The shape of a bucket."""
        return cls(
            key=state.key,
            tier=state.tier,
            api=state.api,
            shadow=state.shadow,
            tokens=state.tokens / MICRO,
            capacity=None if state.limit is None else state.limit.capacity,
            refill_rate=None if state.limit is None else state.limit.refill_rate,
            last_at=instant(state.last_us),
        )


class BucketsShape(Shape):
    """The buckets that somebody has. One that is not here is full."""

    buckets: list[BucketShape]

    @classmethod
    def of(cls, states: Iterable[BucketState]) -> Self:
        """The shape of somebody's buckets."""
        return cls(buckets=[BucketShape.of(state) for state in states])


class ResetShape(Shape):
    """The keys of the buckets that are full again."""

    deleted: list[str]

    @classmethod
    def of(cls, keys: Iterable[str]) -> Self:
        """The shape of a reset."""
        return cls(deleted=list(keys))


class AskedShape(Shape):
    """What a running service answered to one Check. `error`: it could not decide.

    `http_status`, `headers` and `body` are the client's; `metadata` reaches Envoy's access log.
    """

    outcome: Literal["allowed", "denied", "error"]
    http_status: int
    headers: dict[str, str]
    body: str
    metadata: dict[str, str | int]
    grpc_code: str

    @classmethod
    def of(cls, asked: "Asked") -> Self:
        """The shape of a service's answer."""
        return cls.model_validate(asked, from_attributes=True)

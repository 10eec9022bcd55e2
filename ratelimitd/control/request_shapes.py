"""Requests and buckets as JSON."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Self

from ratelimitd.control.answers import BucketState
from ratelimitd.control.shape import Shape, instant
from ratelimitd.core.explain import Explanation, TierState
from ratelimitd.core.model import MICRO, TierName

if TYPE_CHECKING:  # it brings gRPC, which only `check` needs
    from ratelimitd.transport.client import CheckReply


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


class CheckReplyShape(Shape):
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
    def of(cls, asked: "CheckReply") -> Self:
        """The shape of a service's answer."""
        return cls.model_validate(asked, from_attributes=True)

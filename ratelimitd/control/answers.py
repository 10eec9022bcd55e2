"""What the control answers, as values."""

from dataclasses import dataclass

from ratelimitd.core.model import Limit, TierName
from ratelimitd.errors import Problem
from ratelimitd.rollout.replicas import Replica
from ratelimitd.rollout.revision import Revision


@dataclass(frozen=True, slots=True)
class CurrentPolicy:
    """The newest accepted policy. `refused` says why the text in the store is another, and not in force."""

    revision: Revision
    refused: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What a text is worth. Without problems it is a policy; `advice` is what its author may have missed."""

    problems: tuple[Problem, ...]
    advice: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class AppliedRevision:
    """A revision that was accepted, and what its author may have missed."""

    revision: Revision
    advice: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """What runs where. `shadow` counts, by name in the policy's text, what would have been denied."""

    revision: Revision
    refused: tuple[Problem, ...]
    replicas: list[Replica]
    shadow: dict[str, int]
    now_us: int


@dataclass(frozen=True, slots=True)
class BucketState:
    """One bucket of somebody, as it is now.

    Args:
        key: in the store.
        tier: `user` or `user_api`.
        api: the name of the API's bucket, or None.
        shadow: it is one that cannot deny.
        limit: the one that holds without regard to headers and context; None when the tier is off.
        tokens: microtokens now, with this limit; as counted at `last_us` when there is none.
        last_us: when they were counted, in us since the epoch by the store's clock.
    """

    key: str
    tier: TierName
    api: str | None
    shadow: bool
    limit: Limit | None
    tokens: int
    last_us: int

"""The answers of the control operations. Each is defined once, for Python and for JSON.

Attributes count microtokens and microseconds (`_us`). The JSON of the command line's `--json` and of the
admin API has tokens, seconds (`_s`) and ISO 8601 instants in UTC (`at`, `_at`) instead.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from ratelimitd.core.explain import Explanation, TierState
from ratelimitd.core.model import MICRO, Limit
from ratelimitd.core.tiers import TierName
from ratelimitd.errors import Problem
from ratelimitd.instants import Instant, OptionalInstant
from ratelimitd.rollout.replicas import Replica
from ratelimitd.rollout.revision import Revision, RevisionSummary


def _in_units(micro: int) -> float:
    return micro / MICRO


Tokens = Annotated[int, PlainSerializer(_in_units, return_type=float)]
"""Microtokens, serialized as tokens."""

Seconds = Annotated[int, PlainSerializer(_in_units, return_type=float)]
"""Microseconds, serialized as seconds."""

RevisionWithoutText = Annotated[Revision, PlainSerializer(lambda it: it, return_type=RevisionSummary)]


class Answer(BaseModel):
    """Base of all answers: immutable."""

    model_config = ConfigDict(frozen=True)


class CurrentPolicy(Answer):
    """The policy in force.

    `refused` says why the text in the store differs and is not in force. `recorded` is false for a policy
    that was written directly and has no revision yet, and for a lost one. `lost_at`: a replica noticed then
    that the store was emptied; the replicas keep this policy in force. Otherwise null.
    """

    revision: Revision
    refused: tuple[Problem, ...] = ()
    recorded: bool = True
    lost_us: OptionalInstant = Field(default=0, serialization_alias="lost_at")


class AppliedRevision(Answer):
    """A revision that was accepted, and advice on its policy."""

    revision: RevisionWithoutText
    advice: tuple[Problem, ...]


class PolicyDiff(Answer):
    """A unified diff of two policies in normal form. `same`: they mean the same, and the diff is empty."""

    same: bool
    diff: str

    @classmethod
    def of(cls, diff: str) -> Self:
        """Returns the answer for a unified diff."""
        return cls(same=not diff, diff=diff)


class History(Answer):
    """The newest revisions, newest first, without their texts."""

    revisions: list[RevisionWithoutText]


class ReplicaStatus(Replica):
    """A running service and the policy that it has in force.

    `digest` is the first 12 hex digits of the SHA-256 of that policy's text; `revision` is its deprecated
    alias. `number` is the policy's revision; `behind`: a newer one was accepted. `refused` says why the text
    in the store is not in force. `silent`: it has written nothing for some seconds, so it may be frozen, cut
    off or gone. `unreadable_addresses` counts the requests since its start that were charged to the proxy,
    because the address header was missing or held no IP address. `top_users` is its setting.
    """

    digest: str
    started_us: Instant = Field(serialization_alias="started_at")
    seen_us: Instant = Field(serialization_alias="seen_at")
    behind: bool
    silent: bool
    revision: str = Field(json_schema_extra={"deprecated": True})

    @classmethod
    def of(cls, replica: Replica, current: CurrentPolicy, now_us: int) -> Self:
        """Returns the status of a replica.

        Args:
            replica: its entry.
            current: the newest policy.
            now_us: the store's clock.
        """
        newest = current.revision
        return cls(
            **dict(replica),
            # A policy without a revision has no number that a replica could report.
            behind=replica.number < newest.number and (current.recorded or replica.digest != newest.digest),
            silent=replica.is_silent(now_us),
            revision=replica.digest,
        )


class Status(Answer):
    """The newest policy and the running replicas.

    `shadow` counts the requests that shadow would have denied, by the path of the shadow in the policy.
    `warnings` says why `replicas` and `shadow` may be incomplete. `recorded` and `lost_at` belong to the
    policy in force.
    """

    now_us: Instant = Field(serialization_alias="at")
    revision: RevisionWithoutText
    refused: tuple[Problem, ...]
    recorded: bool
    lost_us: OptionalInstant = Field(serialization_alias="lost_at")
    replicas: list[ReplicaStatus]
    shadow: dict[str, int]
    warnings: list[str]


class ExplainedIdentity(Answer):
    """The identity that is charged: the kind of its source, and its key."""

    kind: str
    key: str


class ExplainedTier(Answer):
    """The current state of a tier for a request.

    `enough`: the bucket can pay. `retry_after_s`: until it can; `reset_after_s`: until it is full. Both waits
    assume that no other request spends meanwhile, and are 0 when there is nothing to wait for.
    `retry_after_s` is null where the cost exceeds the capacity.
    `no_refill_for_s`: until the bucket's `last`, which is in the future; 0 for any other bucket.
    `not_a_bucket`: the Redis type of the value at the key, which counts as a full bucket; null for a bucket.
    `shadow`: the tier cannot deny. `leased_up_to`: tokens that replicas can hold in leases, at most.
    """

    name: TierName
    key: str
    shadow: bool
    tokens: Tokens
    capacity: int
    refill_rate: float
    enough: bool
    retry_after_us: Seconds | None = Field(serialization_alias="retry_after_s")
    reset_after_us: Seconds = Field(serialization_alias="reset_after_s")
    no_refill_for_us: Seconds = Field(serialization_alias="no_refill_for_s")
    not_a_bucket: str | None
    leased_up_to: Tokens

    @property
    def limit(self) -> Limit:
        """The limit that holds for the request."""
        return Limit(self.capacity, self.refill_rate)

    @classmethod
    def of(cls, state: TierState, not_a_bucket: str | None) -> Self:
        """Returns the answer for a tier of the core."""
        return cls(**state._asdict() | state.limit._asdict(), not_a_bucket=not_a_bucket)


class ExplainedRequest(Answer):
    """The decision that a request would get, and the reason. `cost` is in tokens, from each tier.

    `retry_after_s` is null unless the request is denied, and where it is always denied, because its cost
    exceeds the capacity of a tier. `more` is how many such requests would be allowed at once; null when no
    bucket bounds them. `tiers` lists the tiers that can deny, then those in shadow.
    """

    identity: ExplainedIdentity
    route: str | None
    override: str | None
    cost: Tokens
    outcome: Literal["allowed", "denied", "blocked", "exempt"]
    reason: str
    denied_by: TierName | None
    shadow: str | None
    tiers: list[ExplainedTier]
    retry_after_us: Seconds | None = Field(serialization_alias="retry_after_s")
    more: int | None

    @classmethod
    def of(cls, explanation: Explanation, not_buckets: Mapping[str, str]) -> Self:
        """Returns the answer for an explanation of the core, and the types of keys that hold no bucket."""
        parts = {
            "identity": explanation.identity._asdict(),
            "tiers": [ExplainedTier.of(state, not_buckets.get(state.key)) for state in explanation.tiers],
        }
        return cls(**explanation._asdict() | parts)


class BucketState(Answer):
    """The current state of a bucket.

    `capacity` and `refill_rate` are the limit without regard to headers and context, null when the tier is
    off; `tokens` are then the ones counted at `last_at`. `last_at` is when the bucket last changed, by the
    store's clock. `no_refill_for_s`: until `last_at`, if that is in the future; 0 for any other bucket.
    `not_a_bucket`: the Redis type of the value at the key, which counts as a full bucket and has no
    `last_at`; null for a bucket. `api` names the API's bucket. `shadow`: the bucket cannot deny.
    """

    key: str
    tier: TierName
    api: str | None
    shadow: bool
    tokens: Tokens
    capacity: int | None
    refill_rate: float | None
    last_us: OptionalInstant = Field(serialization_alias="last_at")
    no_refill_for_us: Seconds = Field(serialization_alias="no_refill_for_s")
    not_a_bucket: str | None

    @property
    def limit(self) -> Limit | None:
        """The limit, or None when the tier is off."""
        if self.capacity is None or self.refill_rate is None:
            return None
        return Limit(self.capacity, self.refill_rate)


class BucketList(Answer):
    """The buckets of a user or an address. A bucket that is not listed is full."""

    buckets: list[BucketState]


class ResetBuckets(Answer):
    """The keys of the buckets that were reset, and are full again."""

    deleted: list[str]

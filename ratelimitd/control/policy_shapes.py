"""Policies, revisions and replicas as JSON."""

from collections.abc import Iterable
from typing import Self

from ratelimitd.control.answers import AppliedRevision, CurrentPolicy, Status, ValidationResult
from ratelimitd.control.shape import ProblemShape, Shape, instant
from ratelimitd.rollout.replicas import Replica
from ratelimitd.rollout.revision import Revision


class RevisionShape(Shape):
    """A revision without its text. `at` is null for number 0, the defaults, and where its record is lost."""

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
    def of(cls, current: CurrentPolicy) -> Self:
        """The shape of what is current."""
        return cls(
            revision=RevisionTextShape.of(current.revision), refused=ProblemShape.all_of(current.refused)
        )


class ValidationResultShape(Shape):
    """What a text is worth. `advice` is what its author may have missed; it stops nothing."""

    valid: bool
    problems: list[ProblemShape]
    advice: list[ProblemShape]

    @classmethod
    def of(cls, reading: ValidationResult) -> Self:
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
    def of(cls, applied: AppliedRevision) -> Self:
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

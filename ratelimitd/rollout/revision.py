"""Values of the rollout, independent of the store: accepted policies and snapshots of the config key."""

import hashlib
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ratelimitd.errors import PolicyError, Problem
from ratelimitd.instants import OptionalInstant
from ratelimitd.policy.text import DEFAULT_TEXT, digest_of_sha256, sha256_of

EXTERNAL = "external"
"""The author of changes made directly in Redis."""

MAX_AUTHOR = 100
"""Characters of an author's name."""

MAX_NOTE = 500
"""Characters of a note."""

WRONG_TYPE = "WRONGTYPE"
"""Replaces the SHA-1 of a key that is not a string. Redis begins its error with the same word."""


class RevisionSummary(BaseModel):
    """An accepted policy without its text.

    `at` is when it was accepted, by the store's clock. It is null for number 0, the default policy, and for a
    revision whose record is lost.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    sha256: str
    at_us: OptionalInstant = Field(serialization_alias="at")
    author: str
    note: str

    @property
    def digest(self) -> str:
        """The digest of the text, as `digest_of` returns it."""
        return digest_of_sha256(self.sha256)


class Revision(RevisionSummary):
    """An accepted policy with its text as written."""

    text: str


DEFAULTS = Revision(
    number=0, sha256=sha256_of(DEFAULT_TEXT), at_us=0, author="", note="the defaults", text=DEFAULT_TEXT
)


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """The config key and the newest revision's number, read at one instant.

    Args:
        value: the value of the config key; None when the key is absent or not a string.
        wrong_type: the key is not a string.
        sha1: hex SHA-1 of the value; "" without a key, WRONG_TYPE when it is not a string.
        head: number of the newest revision, 0 before the first.
        stored: the `sha1` that the newest revision left.
        now_us: the store's clock, in us since the epoch.
    """

    value: bytes | None
    wrong_type: bool
    sha1: str
    head: int
    stored: str
    now_us: int

    @property
    def foreign(self) -> bool:
        """Whether the key was changed directly in Redis and no revision records that yet."""
        return self.sha1 != self.stored

    def text(self) -> bytes | str:
        """Returns the policy text: the default policy without a key. PolicyError if it is not a string."""
        if self.wrong_type:
            raise PolicyError(Problem("", "must be a string; the key holds another type"))
        return DEFAULT_TEXT if self.value is None else self.value


def sha1_of(value: bytes | None) -> str:
    """Returns `PolicySnapshot.sha1` for a value or an absent key. Redis scripts can compute it too."""
    return "" if value is None else hashlib.sha1(value, usedforsecurity=False).hexdigest()


def decoded(raw: bytes | str | None) -> Revision | None:
    """Returns a revision from its JSON in Redis; None when it is not kept or damaged."""
    try:
        return Revision.model_validate_json(raw, strict=True) if raw else None
    except ValidationError:
        return None


def checked_author(name: str) -> str:
    """Returns the name if a person may use it. Raises ValueError."""
    if not 1 <= len(name) <= MAX_AUTHOR:
        raise ValueError(f"must have 1 to {MAX_AUTHOR} characters")
    if name.strip().casefold() == EXTERNAL:
        raise ValueError(f"must not be {EXTERNAL!r}, which marks changes made directly in Redis")
    return name


def checked_note(note: str) -> str:
    """Returns the note if it is not too long. Raises ValueError."""
    if len(note) > MAX_NOTE:
        raise ValueError(f"must have at most {MAX_NOTE} characters")
    return note

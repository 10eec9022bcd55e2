"""Accepted policies, and what their authors and notes may be."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ratelimitd.instants import OptionalInstant
from ratelimitd.policy.text import DEFAULT_TEXT, digest_of_sha256, sha256_of

EXTERNAL = "external"
"""The author of changes made directly in Redis."""

MAX_AUTHOR = 100
"""Characters of an author's name."""

MAX_NOTE = 500
"""Characters of a note."""


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

    @property
    def tag(self) -> str:
        """The number and the digest, which name this revision and no other: `4-57bf0e9ac12d`."""
        return f"{self.number}-{self.digest}"


class Revision(RevisionSummary):
    """An accepted policy with its text as written."""

    text: str


DEFAULTS = Revision(
    number=0, sha256=sha256_of(DEFAULT_TEXT), at_us=0, author="", note="the defaults", text=DEFAULT_TEXT
)


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

"""An accepted policy, and what stands at the key: values, without the store that they are from."""

import hashlib
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ratelimitd.errors import PolicyError, Problem
from ratelimitd.instants import OptionalInstant
from ratelimitd.policy.text import DEFAULT_TEXT, digest_of_sha256, sha256_of

WRONG_TYPE = "WRONGTYPE"
"""Stands for the SHA-1 of a key that is no string; Redis begins its error with the same word."""


class RevisionSummary(BaseModel):
    """A revision without its text. `at` is null for number 0, the defaults, and where its record is lost."""

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
    """A revision with its text, as it was written."""

    text: str


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """What stood at C at one instant of the store's clock, and what was recorded of it.

    `value` is None for no key and for one of another type; `sha1` is then "" or WRONG_TYPE, else the hex
    digest of the value. `head` is the newest revision's number, 0 before the first; `stored` is the `sha1`
    that it left.
    """

    value: bytes | None
    wrong_type: bool
    sha1: str
    head: int
    stored: str
    now_us: int

    @property
    def foreign(self) -> bool:
        """Whether C was written or deleted past ratelimitd, and nobody adopted that yet."""
        return self.sha1 != self.stored

    def text(self) -> bytes | str:
        """What is to be read as the policy: the defaults without a key. PolicyError for another type."""
        if self.wrong_type:
            raise PolicyError(Problem("", "must be a string; the key holds another type"))
        return DEFAULT_TEXT if self.value is None else self.value


DEFAULTS = Revision(
    number=0, sha256=sha256_of(DEFAULT_TEXT), at_us=0, author="", note="the defaults", text=DEFAULT_TEXT
)


def sha1_of(value: bytes | None) -> str:
    """What `PolicySnapshot.sha1` is for a value, or for no key: a fingerprint that scripts can make too."""
    return "" if value is None else hashlib.sha1(value, usedforsecurity=False).hexdigest()


def decoded(raw: bytes | str | None) -> Revision | None:
    """None for what is not kept, and for what somebody's hand damaged."""
    try:
        return Revision.model_validate_json(raw, strict=True) if raw else None
    except ValidationError:
        return None

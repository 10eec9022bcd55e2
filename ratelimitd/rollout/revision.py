"""An accepted policy, and what stands at the key: values, without the store that they are from."""

import hashlib
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from ratelimitd.errors import PolicyError, Problem
from ratelimitd.policy.text import DEFAULT_TEXT

WRONG_TYPE = "WRONGTYPE"
"""Stands for the SHA-1 of a key that is no string; Redis begins its error with the same word."""


@dataclass(frozen=True, slots=True)
class Revision:
    """An accepted policy: when (us since the epoch, the store's clock), by whom, why, and the whole text.

    `sha256` is the hex digest of the text. Number 0 is the defaults, which nobody accepted.
    """

    number: int
    sha256: str
    at_us: int
    author: str
    note: str
    text: str


_REVISION = TypeAdapter(Revision)


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


DEFAULTS = Revision(0, hashlib.sha256(DEFAULT_TEXT.encode()).hexdigest(), 0, "", "the defaults", DEFAULT_TEXT)


def sha1_of(value: bytes | None) -> str:
    """What `PolicySnapshot.sha1` is for a value, or for no key: a fingerprint that scripts can make too."""
    return "" if value is None else hashlib.sha1(value, usedforsecurity=False).hexdigest()


def decoded(raw: bytes | str | None) -> Revision | None:
    """None for what is not kept, and for what somebody's hand damaged."""
    try:
        return _REVISION.validate_json(raw, strict=True) if raw else None
    except ValidationError:
        return None

"""The revision that the author of a change has read. No change overwrites another one unseen.

A number alone identifies a recorded revision. A text that was written directly has only a provisional number
until it is recorded, and another text may get that number, so it is identified by its digest as well.
"""

import re
from dataclasses import dataclass
from typing import Self

from ratelimitd.rollout.revision import RevisionSummary

_TAG = re.compile(r"([0-9]{1,15})(?:-([0-9a-f]{12}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Expected:
    """The number of a revision, and the digest of its text; "" if the author gave no digest."""

    number: int
    digest: str = ""

    @classmethod
    def of(cls, revision: RevisionSummary) -> Self:
        """Returns what names this revision and no other."""
        return cls(revision.number, revision.digest)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads NUMBER or NUMBER-DIGEST. Raises ValueError."""
        found = _TAG.fullmatch(text)
        if found is None:
            raise ValueError(f"must be the number of a revision, or NUMBER-DIGEST, got {text!r:.40}")
        return cls(int(found[1]), found[2] or "")

    def names(self, revision: RevisionSummary) -> bool:
        """Returns whether it is this revision, as far as it says."""
        return self.number == revision.number and self.digest in {"", revision.digest}

    def __str__(self) -> str:
        return f"{self.number}-{self.digest}" if self.digest else str(self.number)

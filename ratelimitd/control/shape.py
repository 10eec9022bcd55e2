"""What operators are answered, as JSON: the same of the command line's `--json` and of the admin service.

Tokens are tokens, waits are in seconds (`_s`), instants are ISO 8601 in UTC with milliseconds (`_at`, `at`).
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict

from ratelimitd.core.model import MICRO
from ratelimitd.errors import Problem

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

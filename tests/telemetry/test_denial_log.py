import asyncio
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from ratelimitd.core.model import MICRO, Outcome, Request
from ratelimitd.core.policy import PolicySet
from ratelimitd.core.ports import Limiter
from ratelimitd.policy.compile import policy_set
from ratelimitd.telemetry.denial_log import DenialLog
from tests.core.fakes import FLAT_POLICY, BrokenLimiter, FixedLimiter, OracleLimiter, decider_over
from tests.policy.documents import full

DENIED = FixedLimiter(Outcome(allowed=False, tokens=(5 * MICRO, 2 * MICRO, -MICRO)))


class Timers:
    """An event loop's clock that the test moves. It holds at most one timer."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: tuple[float, Callable[[], None]] | None = None

    def call_later(self, delay: float, callback: Callable[[], None], /) -> asyncio.TimerHandle:
        assert self._due is None
        self._due = (self.now_s + delay, callback)
        return cast("asyncio.TimerHandle", self)

    def cancel(self) -> None:
        self._due = None

    def move_to(self, now_s: float) -> None:
        while self._due is not None and self._due[0] <= now_s:
            self.now_s, callback = self._due
            self._due = None
            callback()
        self.now_s = now_s

    def now_ns(self) -> int:
        return round(self.now_s * 1e9)


class Scene:
    """A log of at most ten lines a second, in the second 0."""

    def __init__(self, lines: list[Any]) -> None:
        self.lines = lines
        self.timers = Timers()
        self.log = DenialLog(10, self.timers, self.timers.now_ns)

    async def decide(
        self,
        user: str,
        limiter: Limiter = DENIED,
        policy: PolicySet = FLAT_POLICY,
        context: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        decide = decider_over(limiter, policy=policy, now_ns=self.timers.now_ns)
        self.log.decided(
            await decide(Request("GET", "/", "host", {"x-user-id": user}, "203.0.113.9", context))
        )

    def users(self) -> list[tuple[str, int]]:
        """The user and the count of each line."""
        return [(line["identity"], line.get("suppressed", 0)) for line in self.lines]


@pytest.fixture
def scene() -> Iterator[Scene]:
    with capture_logs() as lines:
        yield Scene(lines)


async def test_a_line_says_what_denied_whom_and_for_how_long(scene: Scene) -> None:
    await scene.decide("u1", context={"api": "/a"})
    assert scene.lines == [
        {
            "event": "denied",
            "log_level": "info",
            "outcome": "denied",
            "tier": "user_api",
            "api": "/a",
            "identity": "u1",
            "identity_kind": "header",
            "retry_after_s": 2,
            "source": "store",
            "digest": "flat",
            "ago_s": 0.0,
        }
    ]


async def test_a_local_denial_is_marked(scene: Scene) -> None:
    await scene.decide("u1", FixedLimiter(Outcome(allowed=False, tokens=(0, None, None), local=True)))
    (line,) = scene.lines
    assert (line["source"], line["tier"], line["retry_after_s"]) == ("local", "global", 1)


async def test_a_blocked_request_has_no_tier(scene: Scene) -> None:
    blocked = policy_set(full(overrides={"users": {"mallory": {"blocked": True}}}), "blocked")
    await scene.decide("mallory", policy=blocked)
    (line,) = scene.lines
    assert (line["outcome"], line["source"], line["digest"]) == ("blocked", "local", "blocked")
    assert line.keys().isdisjoint({"tier", "retry_after_s"})


async def test_other_outcomes_and_dry_runs_are_not_logged(scene: Scene) -> None:
    exempt = policy_set(full(overrides={"users": {"root": {"exempt": True}}}), "exempt")
    await scene.decide("root", policy=exempt)
    await scene.decide("u1", OracleLimiter())
    await scene.decide("u1", BrokenLimiter())
    await scene.decide("u1", context={"ratelimitd.dry_run": "true"})
    with scene.log:
        scene.timers.move_to(60)
    assert scene.lines == []


async def test_a_burst_is_spread_and_the_lines_and_counts_add_up(scene: Scene) -> None:
    for number in range(100):
        scene.timers.move_to(number / 50)
        await scene.decide(f"u{number}")
    scene.timers.move_to(60)
    shown = scene.users()
    assert shown[:3] == [("u0", 0), ("u4", 3), ("u9", 4)]
    assert len(shown) == 21  # two seconds, with a line at both ends
    assert sum(1 + suppressed for _, suppressed in shown) == 100


async def test_a_line_that_was_due_later_says_how_long_ago_the_denial_was(scene: Scene) -> None:
    await scene.decide("u1")
    scene.timers.move_to(0.0625)
    await scene.decide("u2")
    scene.timers.move_to(0.3)
    assert [line["ago_s"] for line in scene.lines] == [0, pytest.approx(0.0375, abs=0.001)]


async def test_after_a_pause_the_next_denial_is_logged_at_once(scene: Scene) -> None:
    await scene.decide("u1")
    scene.timers.move_to(0.1)
    await scene.decide("u2")
    assert scene.users() == [("u1", 0), ("u2", 0)]


async def test_the_end_logs_what_was_counted(scene: Scene) -> None:
    with scene.log:
        for number in range(3):
            await scene.decide(f"u{number}")
    assert scene.users() == [("u0", 0), ("u2", 1)]
    scene.timers.move_to(60)
    assert len(scene.lines) == 2


async def test_a_hostile_user_is_logged_as_in_the_key_of_the_bucket(scene: Scene) -> None:
    await scene.decide("\x1b[31m\u202e</script>\udcff\n")
    assert scene.lines[0]["identity"] == "%1B%5B31m%E2%80%AE%3C%2Fscript%3E%FF%0A"

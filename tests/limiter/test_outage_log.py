"""Tests of the lines that are logged while decisions fail, for patterns of failures over time."""

import asyncio
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from ratelimitd.core.model import MICRO, Charge, Limit, Outcome, TakeRequest
from ratelimitd.errors import StoreError, StoreRefusedError
from ratelimitd.limiter.outage_log import OutageLog, has_written

LIMIT = Limit(3, 1.0)
REQUEST = TakeRequest(Charge(MICRO, (LIMIT,)), ("k",))
ALLOWED = Outcome(allowed=True, tokens=(2 * MICRO,))
DENIED = Outcome(allowed=False, tokens=(0,))
LATE = StoreError("no answer within 50 ms")
FULL = StoreRefusedError("the store failed: MISCONF Errors writing to the AOF file")
STEP_S = 0.01


class Scene:
    """An outage log with a clock that the test moves, and the lines it has written."""

    def __init__(self, lines: list[MutableMapping[str, Any]]) -> None:
        self.now_s = 1000.0
        self.lines = lines
        self._due: list[tuple[float, Callable[[], None]]] = []
        self.log = OutageLog(self)

    def time(self) -> float:
        """Returns the time."""
        return self.now_s

    def call_later(self, delay: float, callback: Callable[[], None], /) -> asyncio.TimerHandle:
        """Keeps a timer until its time has come."""
        self._due.append((self.now_s + delay, callback))
        return cast("asyncio.TimerHandle", None)

    def wait(self, seconds: float) -> None:
        """Moves the clock in small steps."""
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            due, self._due = self._due, [timer for timer in self._due if timer[0] > self.now_s]
            for when, callback in due:
                if when <= self.now_s:
                    callback()

    def made(self, outcome: Outcome = ALLOWED) -> None:
        """Notes a decision, as the batcher does."""
        if self.log.troubled:
            self.log.made(REQUEST, outcome)

    def play(self, pattern: str, pause_s: float, error: Exception = LATE) -> None:
        """Plays decisions: F failed, A allowed, D denied, anything else nothing; a pause after each."""
        for event in pattern:
            if event == "F":
                self.log.failed(error)
            elif event in "AD":
                self.made(ALLOWED if event == "A" else DENIED)
            self.wait(pause_s)

    def events(self) -> list[str]:
        """Returns the events so far."""
        return [line["event"] for line in self.lines]


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Yields a log that has written nothing."""
    with capture_logs() as lines:
        yield Scene(lines)


def test_an_outage_is_logged_soon_and_once_and_so_is_its_end(scene: Scene) -> None:
    scene.play("F" * 60, 0.01)
    assert scene.events() == ["store_away"]
    assert scene.lines[0]["reason"] == "no answer within 50 ms"
    scene.play("F" * 1000, 0.01)
    assert scene.events() == ["store_away"]
    scene.play("A" * 120, 0.01)
    assert scene.events() == ["store_away", "store_back"]
    assert scene.lines[1]["failed_calls"] == 1060
    assert scene.lines[1]["away_s"] == 10.6
    assert not scene.log.troubled


def test_one_failed_decision_without_another_one_is_an_outage(scene: Scene) -> None:
    """A service with few requests may have no other sign of it."""
    scene.play("F", 0.7)
    assert scene.events() == ["store_away"]
    scene.wait(100)
    assert scene.events() == ["store_away"]
    scene.play("A", 0.2)
    assert scene.events() == ["store_away", "store_back"]


def test_single_late_replies_are_a_line_every_half_minute_with_counts(scene: Scene) -> None:
    """Every 20th of 200 replies per second is late."""
    scene.play(("A" * 19 + "F") * 300, 0.01)
    assert scene.events() == ["decisions_failed"] * 2
    _, second = scene.lines
    assert second["reason"] == "no answer within 50 ms"
    assert second["failed"] == pytest.approx(150, abs=1)
    assert second["made"] == pytest.approx(2850, abs=20)
    assert second["within_s"] == pytest.approx(30, abs=0.2)


@pytest.mark.parametrize("pause_s", [0.01, 0.1, 0.5, 2.0])
@pytest.mark.parametrize(
    "pattern",
    ["FA", "FFA", "AAAAF", "F" * 20 + "A" * 20, "F" * 200 + "A" * 200, "F" + "A" * 19, "F...A..."],
    ids=lambda pattern: f"{pattern:.4}-{len(pattern)}",
)
@pytest.mark.parametrize("error", [LATE, FULL], ids=["late", "refused"])
def test_no_pattern_writes_more_than_five_lines_in_a_minute(
    scene: Scene, pattern: str, pause_s: float, error: Exception
) -> None:
    minutes = 3
    scene.play(pattern * round(minutes * 60 / pause_s / len(pattern)), pause_s, error)
    assert len(scene.events()) <= 5 * minutes
    scene.play("A" * 40, 1.0)
    assert not scene.log.troubled
    assert scene.events().count("store_away") == scene.events().count("store_back")


def test_denials_do_not_end_an_outage_of_writes(scene: Scene) -> None:
    scene.play("DFDD" * 500, 0.01, FULL)
    assert scene.events() == ["store_away"]
    scene.play("D" * 500, 0.01)
    assert scene.events() == ["store_away"]
    scene.play("A" * 120, 0.01)
    assert scene.events() == ["store_away", "store_back"]


def test_an_outage_of_writes_with_lost_connections_is_one_outage(scene: Scene) -> None:
    """A store that became a replica refuses writes, and the link connects again and again."""
    for _ in range(100):
        scene.play("F", 0.01, FULL)
        scene.play("FD", 0.01)
    assert scene.events() == ["store_away"]


def test_denials_end_an_outage_of_the_connection(scene: Scene) -> None:
    scene.play("F" * 100 + "D" * 120, 0.01)
    assert scene.events() == ["store_away", "store_back"]


@pytest.mark.parametrize(
    ("request_", "outcome", "wrote"),
    [
        (REQUEST, ALLOWED, True),
        (REQUEST, DENIED, False),
        (REQUEST._replace(dry_run=True), ALLOWED, False),
        (TakeRequest(Charge(0, (LIMIT,)), ("k",)), ALLOWED, False),
        (TakeRequest(Charge(MICRO, (), (LIMIT,)), ("k",)), Outcome(True, (), DENIED), False),  # noqa: FBT003
        (TakeRequest(Charge(MICRO, (), (LIMIT,)), ("k",)), Outcome(True, (), ALLOWED), True),  # noqa: FBT003
        (TakeRequest(Charge(MICRO, (LIMIT,), (LIMIT,)), ("k", "s")), ALLOWED._replace(shadow=DENIED), True),
    ],
)
def test_a_decision_that_takes_nothing_writes_nothing(
    request_: TakeRequest,
    outcome: Outcome,
    wrote: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    assert has_written(request_, outcome) == wrote

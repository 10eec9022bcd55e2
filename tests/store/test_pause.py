"""Tests of the pause between two attempts to connect."""

from ratelimitd.store.pause import Pause
from tests.store.server import Clock


def test_the_pause_between_failed_attempts_doubles_up_to_a_second() -> None:
    pause = Pause(Clock())
    pauses_s = []
    for _ in range(7):
        pause.begin()
        pauses_s.append(pause.after(failed=True))
    assert pauses_s == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_connection_that_ends_is_replaced_at_once() -> None:
    clock = Clock()
    pause = Pause(clock)
    for lasted_s in (0.0, 0.05, 0.1, 30.0):
        pause.begin()
        clock.now_s += lasted_s + 0.001
        assert pause.after(failed=False) <= 0


def test_connections_that_do_not_last_are_replaced_more_slowly() -> None:
    """Otherwise a store that answers and closes each connection would be called without end."""
    pause = Pause(Clock())
    pauses_s = []
    for _ in range(6):
        pause.begin()
        pauses_s.append(pause.after(failed=False))
    assert pauses_s == [0.0, 0.05, 0.1, 0.2, 0.25, 0.25]


def test_a_connection_that_lasted_resets_the_pause() -> None:
    clock = Clock()
    pause = Pause(clock)
    for _ in range(5):
        pause.begin()
        pause.after(failed=True)
    pause.begin()
    clock.now_s += 0.25
    assert pause.after(failed=False) <= 0
    pause.begin()
    assert pause.after(failed=True) == 0.05

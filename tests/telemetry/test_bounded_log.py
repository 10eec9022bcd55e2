from structlog.testing import capture_logs

from ratelimitd.bounded_log import BoundedLog


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_later_lines_of_a_minute_are_counted() -> None:
    clock = Clock()
    log = BoundedLog("test", lines_per_minute=2, now_s=clock)
    with capture_logs() as lines:
        written = [log.warning("late", n=n) for n in range(5)]
        clock.now_s += 60
        log.warning("late", n=5)
        log.warning("late", n=6)
    assert written == [True, True, False, False, False]
    assert [(line["n"], line.get("suppressed")) for line in lines] == [
        (0, None),
        (1, None),
        (5, 3),
        (6, None),
    ]
    assert {line["log_level"] for line in lines} == {"warning"}


def test_a_traceback_is_part_of_a_line() -> None:
    log = BoundedLog("test", lines_per_minute=1, now_s=Clock())
    with capture_logs() as lines:
        for _ in range(2):
            try:
                int("broken")
            except ValueError:
                log.exception("broke", n=1)
    assert lines == [{"event": "broke", "n": 1, "exc_info": True, "log_level": "error"}]


def test_each_event_has_its_own_limit() -> None:
    log = BoundedLog("test", lines_per_minute=1, now_s=Clock())
    with capture_logs() as lines:
        log.error("one")
        log.error("one")
        log.info("two")
    assert [line["event"] for line in lines] == ["one", "two"]


def test_a_minute_begins_with_its_first_line() -> None:
    clock = Clock()
    log = BoundedLog("test", lines_per_minute=1, now_s=clock)
    with capture_logs() as lines:
        log.warning("late")
        clock.now_s += 59.9
        log.warning("late")
        clock.now_s += 0.1
        log.warning("late")
    assert len(lines) == 2

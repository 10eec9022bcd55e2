from structlog.testing import capture_logs

from ratelimitd.bounded_log import BoundedLog, FailureLog


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


def test_a_call_that_keeps_failing_is_logged_once_until_it_works() -> None:
    clock = Clock()
    log = FailureLog("test", now_s=clock)
    with capture_logs() as lines:
        for minute in range(3):
            clock.now_s += 60
            log.warning("read_failed", minute=minute)
            log.warning("write_failed", minute=minute)
        log.worked("read_failed")
        clock.now_s += 60
        log.warning("read_failed", minute=4)
        log.warning("write_failed", minute=4)
    assert [(line["event"], line["minute"]) for line in lines] == [
        ("read_failed", 0),
        ("write_failed", 0),
        ("read_failed", 4),
    ]


def test_a_call_that_fails_and_works_in_turn_is_logged_once_a_minute_with_a_count() -> None:
    clock = Clock()
    log = FailureLog("test", now_s=clock)
    with capture_logs() as lines:
        for second in range(121):
            log.warning("read_failed", second=second)
            log.worked("read_failed")
            clock.now_s += 1
    assert [(line["second"], line.get("suppressed")) for line in lines] == [(0, None), (60, 59), (120, 59)]


def test_a_failure_that_lasts_is_logged_when_the_minute_of_another_one_is_over() -> None:
    clock = Clock()
    log = FailureLog("test", now_s=clock)
    with capture_logs() as lines:
        log.warning("read_failed", reason="short")
        log.worked("read_failed")
        for _ in range(100):
            clock.now_s += 1
            log.warning("read_failed", reason="lasting")
    assert [(line["reason"], line.get("suppressed")) for line in lines] == [("short", None), ("lasting", 59)]

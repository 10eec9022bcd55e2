from structlog.testing import capture_logs

from ratelimitd.bounded_log import LINES_PER_MINUTE
from ratelimitd.telemetry.unreadable_addresses import UnreadableAddresses


def test_every_value_is_counted_and_few_are_logged() -> None:
    unreadable = UnreadableAddresses("x-client")
    with capture_logs() as lines:
        for _ in range(100):
            unreadable("unknown")
    assert unreadable.count == 100
    assert len(lines) == LINES_PER_MINUTE


def test_each_reason_is_named() -> None:
    with capture_logs() as lines:
        for value in (None, "", "203.0.113.9, 10.0.0.1"):
            UnreadableAddresses("x-client")(value)
    assert [(line["value"], line["reason"]) for line in lines] == [
        (None, "the header is missing"),
        ("", "not an IP address"),
        ("203.0.113.9, 10.0.0.1", "a list, expected one address"),
    ]


def test_a_value_is_logged_short_and_without_characters_that_change_a_terminal() -> None:
    with capture_logs() as lines:
        UnreadableAddresses("x-client")("\x1b[31m\udcff\u202e'\"\n" + "x" * 10_000)
    assert lines[0]["value"].startswith(r"\x1b[31m\udcff\u202e")
    assert len(lines[0]["value"]) < 150
    assert lines[0]["value"].isprintable()

"""Numbers, durations and times for people."""

from ratelimitd.display import duration, tokens, utc_time


def test_tokens_are_never_rounded_up() -> None:
    held = {0: "0", 999_999: "0.999", 1_000_000: "1", 7_500_000: "7.5", 10**15: "1000000000"}
    assert {micro: tokens(micro) for micro in held} == held


def test_durations_are_rounded_up_and_times_are_utc() -> None:
    waits = {
        0: "0 s",
        1_500_000: "1.5 s",
        59_999_000: "59.999 s",
        59_999_001: "1 min",
        60_000_001: "1 min 1 s",
        3_600_000_000: "1 h",
    }
    assert {us: duration(us) for us in waits} == waits
    assert duration(1_000_000 * 10**6) == "11 d 13 h"
    assert duration(1) == "0.001 s"
    assert utc_time(0) == "1970-01-01 00:00:00 UTC"
    assert utc_time(10**30) == "unknown"

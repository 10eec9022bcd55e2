"""The drills compute their figures correctly, and a drill on real processes keeps its promises."""

import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.__main__ import DRILLS, parse
from drills.drill import Drill, Result
from drills.policy import CAPACITY, REFILL_RATE, TIGHT_SHARE, policy_text, user
from drills.records import (
    NO_ANSWER,
    ROOMY,
    TIGHT,
    Record,
    over_admitted,
    recovery_s,
    slowest_s,
    wrongly_denied,
)
from drills.table import COLUMNS, missing_row, row
from ratelimitd.core.bucket import Bucket, refill
from ratelimitd.core.model import MICRO, Limit
from ratelimitd.policy.document import PolicyDocument
from ratelimitd.policy.text import parse as parse_policy
from tests.required_programs import need
from tests.tools.conftest import ROOT

LAW = (CAPACITY, REFILL_RATE)


def record(sent_s: float, status: int = 200, name: str = f"{TIGHT}-0", took_s: float = 0.001) -> Record:
    return Record(sent_s, sent_s, sent_s + took_s, name, status)


def test_a_burst_above_the_capacity_is_over_admitted() -> None:
    burst = [record(10 + number / 1000) for number in range(CAPACITY + 3)]
    assert over_admitted(burst, *LAW) == 3
    assert over_admitted(burst[:CAPACITY], *LAW) == 0


def test_a_window_in_the_middle_counts() -> None:
    """Over the whole time the user got less than the law allows."""
    burst = [record(100 + number / 1000) for number in range(CAPACITY + 2)]
    assert over_admitted([record(0), *burst, record(200)], *LAW) == 2


def test_only_admissions_of_tight_users_count_and_each_user_counts_alone() -> None:
    denied = [record(number / 1000, 429) for number in range(50)]
    roomy = [record(number / 1000, name=f"{ROOMY}-1") for number in range(50)]
    assert over_admitted(denied + roomy, *LAW) == 0
    two = [record(0, name=f"{TIGHT}-{number % 2}") for number in range(2 * CAPACITY)]
    assert over_admitted(two, *LAW) == 0


def test_a_response_that_took_long_may_have_been_decided_at_any_time_meanwhile() -> None:
    slow = [record(0, took_s=5) for _ in range(CAPACITY + int(5 * REFILL_RATE))]
    assert over_admitted(slow, *LAW) == 0
    assert over_admitted([*slow, record(0, took_s=5)], *LAW) == 1


@given(st.lists(st.tuples(st.integers(0, 400_000), st.integers(0, 300_000)), max_size=60))
def test_what_a_bucket_admits_is_never_over_admitted(steps: list[tuple[int, int]]) -> None:
    """Each step is a pause and a delay of the response, in us."""
    limit = Limit(CAPACITY, REFILL_RATE)
    bucket, now_us, records = None, 0, []
    for pause_us, delay_us in steps:
        now_us += pause_us
        bucket = refill(bucket, limit, now_us)
        allowed = bucket.tokens >= MICRO
        if allowed:
            bucket = Bucket(bucket.tokens - MICRO, bucket.last)
        sent_s = (now_us - delay_us) / 1e6
        records.append(record(sent_s, 200 if allowed else 429, took_s=2 * delay_us / 1e6))
    assert over_admitted(records, *LAW) == 0


def test_a_429_for_a_roomy_user_is_wrong_and_one_for_a_tight_user_is_not() -> None:
    assert wrongly_denied([record(0, 429, f"{ROOMY}-3"), record(0, 429), record(0, 503, f"{ROOMY}-3")]) == 1


def test_recovery_is_the_first_steady_second() -> None:
    answers = [(0.0, 200), (0.5, 503), (0.9, 503), (1.4, 200), (1.8, NO_ANSWER), (2.0, 200), (2.9, 200)]
    records = [record(10 + at_s, status, f"{ROOMY}-1") for at_s, status in answers]
    assert recovery_s(records, 10) == pytest.approx(1.8)
    assert recovery_s(records[:-1], 10) is None
    assert recovery_s(records, 11.85) == 0
    assert recovery_s(records, 12) is None


def test_a_denied_tight_user_does_not_delay_the_recovery() -> None:
    records = [record(0, name=f"{ROOMY}-1"), record(0.5, 429), record(1.5, name=f"{ROOMY}-1")]
    assert recovery_s(records, 0) == 0


def test_a_duration_counts_from_when_the_request_was_due() -> None:
    assert slowest_s([Record(1, 2, 4, "roomy-0", 200), record(8)]) == 3


def test_the_users_take_turns_and_only_the_tight_ones_have_an_override() -> None:
    names = [user(number) for number in range(2000)]
    assert sum(name.startswith(TIGHT) for name in names) == len(names) / TIGHT_SHARE
    for kind in (ROOMY, TIGHT):
        counts = {name: names.count(name) for name in names if name.startswith(kind)}
        assert max(counts.values()) - min(counts.values()) <= 1
    document = parse_policy(policy_text())
    assert isinstance(document, PolicyDocument)
    overrides = document.overrides.users
    assert set(overrides) == {name for name in names if name.startswith(TIGHT)}


async def nothing(_: object) -> Result:
    raise NotImplementedError


def test_a_row_names_each_broken_promise() -> None:
    drill = Drill("d", "a fault", nothing, may_over_admit=1)
    burst = [record(0) for _ in range(CAPACITY + 2)]
    bad = Result("9/s", [*burst, record(0, 429, f"{ROOMY}-1")], None, ["the policy is lost"])
    assert drill.broken(bad) == [
        "the policy is lost",
        "1 requests wrongly denied",
        "2 requests over-admitted; at most 1 are documented",
        "never recovered",
    ]
    good = Result("9/s", [record(0)], 0.5)
    assert drill.broken(good) == []
    assert row(drill, "fast", good)[-2:] == ["0.50", "kept"]
    assert len(row(drill, "fast", bad)) == len(missing_row(drill, "fast", "why")) == len(COLUMNS)


def test_the_command_line_refuses_unknown_drills_and_long_faults(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, sentence in [
        (["replica-kil"], "unknown drill replica-kil"),
        (["--seconds", "0"], "--seconds"),
        (["--rate", "1e9"], "--rate"),
    ]:
        with pytest.raises(SystemExit):
            parse(arguments)
        assert sentence in capsys.readouterr().err
    assert len({drill.name for drill in DRILLS}) == len(DRILLS)


def drills(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "drills", *arguments],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_a_redis_that_is_killed_denies_nobody_wrongly() -> None:
    need("redis-server")
    done = drills("redis-empty", "--seconds", "0.5", "--rate", "50", "--transport", "grpcio")
    assert done.returncode == 0, done.stdout + done.stderr
    cells = done.stdout.splitlines()[-2]
    assert cells.startswith("restart of Redis with no data")
    assert cells.endswith("kept")


def test_the_list_names_every_drill() -> None:
    done = drills("--list")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [drill.name for drill in DRILLS]


def test_the_docs_state_the_bound_of_each_drill() -> None:
    text = (ROOT / "docs/reliability.md").read_text()
    documented = {
        name: int(bound) for name, bound in re.findall(r"^\| `([\w-]+)` \| (\d+) \|", text, re.MULTILINE)
    }
    assert documented == {drill.name: drill.may_over_admit for drill in DRILLS}
    table = text.partition("## A complete run")[2].partition("\n## ")[0]
    assert [drill.name for drill in DRILLS if f"| {drill.fault} |" not in table] == []

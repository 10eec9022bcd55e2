"""`ratelimitd usage`, in processes of its own where a terminal or a signal matters."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from ratelimitd.cli import watch
from ratelimitd.core.model import Verdict
from ratelimitd.core.tiers import TierName
from ratelimitd.telemetry.decision_counts import Series
from ratelimitd.usage.layout import total_key
from tests.example_limits import KEY, limits_json
from tests.system.command import apply, process, run
from tests.system.processes import end_of, line_with, started
from tests.usage.examples import HOSTILE
from tests.usage.reporting_replica import ReportingReplica

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
async def counted(operator: None, store: Redis) -> None:  # noqa: ARG001 - the environment comes first
    """Usage of two APIs, one of which has a hostile name."""
    await apply(limits_json(), "--note", "first")
    replica = ReportingReplica(store)
    replica.decide(7, "/a")
    replica.decide(2, "/a", denied_by=TierName.USER)
    replica.decide(3, HOSTILE)
    await replica.report()


@pytest.mark.usefixtures("counted")
async def test_usage_shows_outcomes_apis_and_changes() -> None:
    done = await run("usage", "--range", "1H")
    assert (done.status, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "replicas 1" in lines
    assert "global 10 of 10 tokens" in lines
    assert "requests 12, of which 0 needed no call to the store" in lines
    assert any(line.startswith("allowed 10 ") for line in lines)
    assert any(line.startswith("denied by user 2 ") for line in lines)
    assert any(line.startswith("/a 7 2 ") for line in lines)
    assert re.search(r"^revision 1 at \S+ by alice: first$", lines[-1])
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    assert r"/api/\u001b[31m\u202e</script>" in done.out


@pytest.mark.usefixtures("counted")
async def test_usage_names_decisions_from_memory_if_there_were_any(store: Redis) -> None:
    assert "degraded" not in (await run("usage")).out
    replica = ReportingReplica(store)
    replica.count(Series(Verdict.ALLOWED, "", "/a", "degraded"), 4)
    await replica.report()
    lines = [" ".join(line.split()) for line in (await run("usage")).out.splitlines()]
    assert "degraded 4 were decided from memory, because the store could not decide" in lines


@pytest.mark.usefixtures("counted")
async def test_a_table_fits_into_80_columns(store: Redis) -> None:
    replica = ReportingReplica(store)
    replica.decide(99_999_999, "/a")
    await replica.report()
    done = await run("usage")
    table = done.out.partition("outcome")[2].partition("api ")[0]
    assert max(len(line) for line in table.splitlines()) <= 80


@pytest.mark.usefixtures("counted")
async def test_json_is_that_of_the_api(store: Redis) -> None:
    await store.hset(total_key(KEY), "allowed", "x")
    usage = (await run("usage", "--json")).json
    assert (usage["range"], usage["totals"]["allowed"], len(usage["steps"])) == ("15m", 10, 90)
    assert "damaged fields of" in usage["warnings"][0]
    assert "WARNING: damaged fields of" in (await run("usage")).out


async def test_without_any_report_everything_is_zero() -> None:
    done = await run("usage")
    assert (done.status, done.err) == (0, "")
    assert "replicas  0" in done.out


async def test_a_wrong_range_is_an_error_that_names_the_ranges() -> None:
    done = await run("usage", "--range", "2h")
    assert (done.status, done.out) == (2, "")
    assert "Invalid value for '--range': must be 15m, 1h, 24h or 7d, got '2h'" in done.err


@pytest.mark.usefixtures("counted")
def test_a_terminal_without_unicode_gets_ascii() -> None:
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = process("usage", **env)
    assert (done.status, done.err) == (0, "")
    assert done.out.isascii()
    assert re.search(r"^allowed .* _+[_#]+$", done.out, re.MULTILINE)


@pytest.mark.usefixtures("counted")
async def test_watching_in_a_pipe_prints_block_after_block(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = 0

    async def interrupted(_: float) -> None:
        nonlocal shown
        shown += 1
        if shown == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch, "asyncio", type("Asyncio", (), {"sleep": staticmethod(interrupted)}))
    done = await run("usage", "--watch")
    assert (done.status, done.err) == (0, "")
    assert len(re.findall("^range ", done.out, re.MULTILINE)) == 3
    shown = 0
    lines = (await run("usage", "--watch", "--json")).out.splitlines()
    assert [json.loads(line)["range"] for line in lines] == ["15m"] * 3


async def test_watching_goes_on_while_the_store_is_away_and_ctrl_c_ends_it() -> None:
    away = {"RATELIMITD_REDIS_URL": "redis://127.0.0.1:1/0"}
    async with started("usage", "--watch", env=away) as watching:
        assert "ratelimitd: warning: the store failed" in await line_with(watching, "warning")
        watching.send_signal(signal.SIGINT)
        assert await end_of(watching) == (0, "")


@pytest.mark.usefixtures("counted")
async def test_watching_on_a_terminal_shows_the_last_answer_in_place() -> None:
    """A terminal that knows no escape sequences gets none."""
    xterm, dumb = await asyncio.gather(
        *(asyncio.to_thread(watched_on_a_terminal, term) for term in ("xterm", "dumb"))
    )
    assert "Traceback" not in xterm + dumb
    assert "\x1b[2J" in xterm
    assert "\x1b" not in dumb


def watched_on_a_terminal(term: str) -> str:
    """Returns the screen after the first answer and Ctrl-C."""
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": term, "NO_COLOR": "1", "COLUMNS": "80"}
    command = [sys.executable, "-m", "ratelimitd", "usage", "--watch"]
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        screen = b""
        interrupted = False
        for data in read(ours):
            screen += data
            if b"revision 1 at" in screen and not interrupted:
                child.send_signal(signal.SIGINT)
                interrupted = True
    os.close(ours)
    assert child.returncode == 0
    return screen.decode()


def read(terminal: int) -> Iterator[bytes]:
    """Yields what appears on a terminal until its process has ended."""
    while True:
        try:
            yield os.read(terminal, 65536)
        except OSError:
            return

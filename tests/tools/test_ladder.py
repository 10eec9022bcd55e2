"""The ladder measures what its rungs and settings promise."""

import copy
import json
import re
import subprocess
import sys
from contextlib import AsyncExitStack
from functools import lru_cache
from pathlib import Path

import pytest

from bench import hop_settings, ladder, launch, rungs
from bench.errors import BenchError
from bench.hop_settings import SAME, SETTINGS, Setting
from bench.ladder_tables import rungs_table, settings_table
from bench.measure import Sample
from bench.rungs import RUNGS, Rung
from bench.stores import running_store
from bench.workloads import Case, Concurrency, Entry, Workload
from ratelimitd.address import TcpAddress
from ratelimitd.transport.fast.hop_routes import Config
from tests.required_programs import need
from tests.tools.conftest import ROOT

ADDRESS = TcpAddress("127.0.0.1", 1)
ONE = Concurrency(1)


def test_a_quick_run_prints_each_rung_and_its_step() -> None:
    need("h2load")
    command = [sys.executable, "-m", "bench.ladder", "--quick", "--connections", "2"]
    done = subprocess.run(
        [*command, "--rungs", "none,bare,decide,store"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "connections: 2" in done.stdout
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line[:1].isalpha()}
    assert [re.fullmatch(r"[+-]\d+", rows[name][-1]) is not None for name in ("bare", "store")] == [True] * 2
    assert [rows[name][-1] for name in ("none", "decide")] == ["-", "-"]  # the rung above was not measured
    assert [rows[name][-5].isdigit() for name in ("none", "bare", "decide", "store")] == [False] * 3 + [True]


async def test_a_rung_that_does_not_ask_stops_the_ladder(tmp_path: Path) -> None:
    rung = Rung("store", "", limited=False)
    async with (
        running_store("redis") as store,
        launch.backend(tmp_path) as backend,
        AsyncExitStack() as stack,
    ):
        with pytest.raises(BenchError, match="rung store: unexpected headers"):
            await stack.enter_async_context(ladder.envoy(rung, None, store, backend, tmp_path))


@lru_cache
def front_of(rung: str) -> Config:
    return rungs.front_of(rungs.BY_NAME[rung], ADDRESS, ADDRESS)[0]


def without_random_names(config: Config) -> str:
    return re.sub(r"(x-ratelimitd-hop|@ratelimitd)-[0-9a-f]{16}", "", json.dumps(config))


@pytest.mark.parametrize("rung", [rung for rung in RUNGS if rung.above], ids=lambda rung: rung.name)
def test_each_rung_differs_from_the_one_above(rung: Rung) -> None:
    assert without_random_names(front_of(rung.name)) != without_random_names(front_of(rung.above))


@pytest.mark.parametrize(
    "setting", [setting for setting in SETTINGS if setting is not SAME], ids=lambda setting: setting.name
)
def test_each_setting_changes_its_rung(setting: Setting) -> None:
    before = front_of(rungs.FULL)
    config = copy.deepcopy(before)
    setting.change(rungs.parts_of(config))
    assert config != before or setting.concurrency != 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rungs", "none,top"], "--rungs: unknown top; expected none, bare, headers"),
        (["--settings", "fast"], "--settings: unknown fast; expected same, no-second-filter"),
        (["--rungs", "none", "--settings"], "--rungs and --settings exclude each other"),
        (["--connections", "1,x"], "--connections 1,x: expected numbers above 0"),
        (["--rounds", "0"], "--rounds and --seconds must be above 0"),
    ],
)
def test_an_unusable_option_is_reported(arguments: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=re.escape(message)):
        ladder.parse(arguments)


def test_a_setting_is_measured_beside_its_rung() -> None:
    options = ladder.parse(["--settings", "asyncio,no-breakers", "--connections", "8"])
    assert [setting.name for setting in options.settings] == ["no-breakers", "asyncio"]
    assert [rung.name for rung in options.rungs] == ["metadata"]
    assert options.connections == [8]


def _samples(envoy_us: list[float], store_us: float | None) -> list[Sample]:
    return [Sample(1000, 1.0, 1.0, 0.0, 1.0, None, us, store_us) for us in envoy_us]


def _case(name: str) -> Case:
    return Case(Entry.ENVOY, Workload.MANY, ONE, name)


def test_a_step_is_the_difference_of_the_minima_and_the_median_of_the_differences() -> None:
    """In the second round the machine is half as fast."""
    results = {
        _case("decide"): _samples([100, 200, 130], None),
        _case("store"): _samples([120, 250, 140], 10),
    }
    chosen = [rungs.BY_NAME[name] for name in ("decide", "store")]
    decide, store = rungs_table(results, ONE, chosen).rows
    assert decide[2:] == ["1000", "-", "100", "130", "-", "-"]
    assert store[2:] == ["1000", "10", "130", "150", "+30", "+30"]


def test_a_setting_is_divided_by_its_rung() -> None:
    results = {_case(rungs.FULL): _samples([100, 200], None), _case("asyncio"): _samples([110, 180], None)}
    base, asyncio = settings_table(results, ONE, [hop_settings.BY_NAME["asyncio"]]).rows
    assert base[0] == "rung metadata"
    assert asyncio[-2:] == ["1.100", "1.000"]

"""The bench runs, parses its inputs correctly, and never turns a failed load into a figure."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import grpc
import pytest

from bench import compare, echo, grpc_methods, h2load
from bench.errors import BenchError
from bench.figures import ratios
from bench.goals import Goal, load_goals, observation_goals
from bench.grpc_load import LoadSpec, request_bodies
from bench.measure import Sample, grpc_outcomes, measure
from bench.options import parse
from bench.process_usage import cpu_s, memory, process_tree
from bench.table import Table, load_table, markdown, plain, with_spread
from bench.targets import GRPCIO, OTHER_CHECKOUT, Target
from bench.workloads import HOT_USER, STREAMS, Case, Concurrency, Entry, Workload, cases
from ratelimitd.address import TcpAddress
from ratelimitd.core.response import Response, ResponseKind, ResponseTemplate
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from ratelimitd.transport.check_response import ResponseEncoder
from ratelimitd.transport.ext_authz import decode
from tests.required_programs import PATH, need
from tests.tools.conftest import ROOT

BENCH = [sys.executable, "-m", "bench"]

OUTPUT = """\
starting benchmark...
spawning thread #0: 2 total client(s). 12 total requests
Application protocol: http/1.1
progress: 50% done
progress: 100% done

finished in 26.87ms, 446.63 req/s, 177.08KB/s
requests: 12 total, 12 started, 12 done, 6 succeeded, 6 failed, 0 errored, 0 timeout
status codes: 6 2xx, 0 3xx, 6 4xx, 0 5xx
traffic: 4.76KB (4872) total, 3.79KB (3876) headers (space savings 0.00%), 294B (294) data
                     min         max         mean         sd        +/- sd
time for request:     2.18ms     12.38ms      4.36ms      3.53ms    83.33%
time for connect:       71us       265us       168us       137us   100.00%
time to 1st byte:     2.26ms      3.81ms      3.04ms      1.09ms   100.00%
req/s           :     226.32      227.05      226.69        0.51   100.00%
"""
"""Output of h2load 1.52.0 for two connections and the alternating workload."""

LOG = """\
1795483792156594	429	2181
1795483792156599	429	3546
1795483792158840	200	3011
1795483792160198	200	3123
1795483792161865	429	2673
1795483792163334	429	2230
1795483792165575	200	11291
1795483792164553	200	12379
1795483792176935	429	2822
1795483792176882	429	3533
1795483792180429	200	2297
1795483792179799	200	3207
"""
"""h2load's log of the same load."""

REFUSED_OUTPUT = """\
finished in 260us, 0.00 req/s, 0B/s
requests: 12 total, 0 started, 0 done, 0 succeeded, 12 failed, 12 errored, 0 timeout
"""

OK_OF_GRPCIO = "400b677270632d7374617475730130000c677270632d6d65737361676500"
OK_OF_ENVOY = "00889acac8b21234da8f0130"
"""Recorded trailers: grpc-status 0 with an empty grpc-message, and grpc-status 0 alone, Huffman-coded."""


def bench(*arguments: str, path: str = PATH) -> subprocess.CompletedProcess[str]:
    """Runs the bench as `make bench` does."""
    return subprocess.run(
        [*BENCH, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )


@pytest.mark.timeout(600)  # half a minute on an idle machine
def test_a_quick_run_prints_every_table_row() -> None:
    need("h2load")
    done = bench("--quick")
    assert done.returncode == 0, done.stderr
    for case in [
        *cases(Entry.DIRECT, ["grpcio", "fast"], ["echo on grpc.aio", "echo on the fast host"]),
        *[Case(Entry.DIRECT, workload, STREAMS, "fast, not observed") for workload in Workload],
        *cases(Entry.ENVOY, ["grpcio", "fast", "inside the front Envoy"], ["Envoy with no limit"]),
    ]:
        row = rf"^{case.workload.value} +{case.concurrency} +{case.target} +\d+% +\d+ "
        assert re.search(row, done.stdout, re.MULTILINE), row
    memory_of = ("Memory of the store", "Memory of the service", "Memory of the usage series")
    titles = (*memory_of, "Start-up", "without I/O", "Goals")
    assert [title for title in titles if title not in done.stdout] == []
    goals = done.stdout.partition("Goals\n")[2].splitlines()[3:]
    assert [line for line in goals if line and not line.endswith(("yes", "no"))] == []
    for bound in (r"grpcio, MB more \(RSS\)", r"fast, MB more \(RSS\)", ".*, MB of the usage series"):
        assert any(re.match(bound, line) for line in goals), bound


async def test_a_comparison_measures_both_checkouts_in_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    await compare.run(parse(["--quick"]), ROOT)
    loads, _, ratios_printed = capsys.readouterr().out.partition("This checkout / other checkout")
    for workload in Workload:
        for concurrency in ("1", "4 x 32"):
            assert len(re.findall(rf"^{workload} +{concurrency} +fast", loads, re.MULTILINE)) == 2
            assert re.search(rf"^{workload} +{concurrency} +\d", ratios_printed, re.MULTILINE)


def test_a_missing_h2load_is_reported_with_an_installation_hint() -> None:
    done = bench("--quick", path="/nonexistent")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "bench: h2load is missing: apt-get install nghttp2-client\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "slow"], "--targets: unknown target slow; expected grpcio, fast, front"),
        (["--rounds", "0"], "--rounds and --seconds must be above 0"),
        (["--rls", "8081"], "8081: not a valid address; expected HOST:PORT"),
        (["--ext-authz", "unix:/tmp/a"], "unix:/tmp/a: not a valid address; expected HOST:PORT"),
        (["--against", "/nonexistent"], "--against: /nonexistent has no .venv/bin/python"),
    ],
)
def test_invalid_options_are_rejected(arguments: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=re.escape(message)):
        parse(arguments)


def test_statuses_and_durations_are_parsed_from_h2loads_log() -> None:
    result = h2load.parse(OUTPUT, LOG.splitlines())
    assert result.seconds == pytest.approx(0.02687)
    assert result.statuses == {200: 6, 429: 6}
    assert result.mean_us == pytest.approx(4357.75)
    assert result.p99_us == 12379


@pytest.mark.parametrize(
    ("output", "log", "message"),
    [
        (REFUSED_OUTPUT, "", "of 12 requests, 12 failed"),
        (OUTPUT, LOG[: LOG.index("1795483792180429")], "10 are in the log"),
        (OUTPUT, LOG.replace("\t", " "), "unexpected format"),
        ("Segmentation fault", "", "unexpected output"),
    ],
)
def test_a_failed_h2load_run_is_rejected(output: str, log: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        h2load.parse(output, log.splitlines())


def test_the_alternating_workload_sends_half_its_requests_as_the_hot_user(tmp_path: Path) -> None:
    urls = tmp_path / "urls"
    h2load.write_urls(Workload.MIXED, urls, 2)
    assert [line.partition("front")[2] for line in urls.read_text().splitlines()] == [
        "/api/ping",
        "/api/many?u=0000",
        "/api/ping",
        "/api/many?u=0001",
    ]
    pieces = [piece.hex() for piece in grpc_methods.check().pieces]
    spec = LoadSpec("", 0, "", 1, 1, 4, pieces, [(HOT_USER, 1), (0, 2)], 1)
    requests = [decode(body[5:]) for body in islice(request_bodies(spec), 6)]
    users = [request.headers["x-user-id"] for request in requests]
    assert users == ["u99999999", "u00000000", "u99999999", "u00000001", "u99999999", "u00000000"]
    assert {request.context["api"] for request in requests} == {"/api/*"}


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (ResponseEncoder().encode(Response(ResponseTemplate(ResponseKind.OK, 200), "x", 1)), "allowed"),
        (
            ResponseEncoder().encode(
                Response(ResponseTemplate(ResponseKind.DENIED, 429, (("retry-after", "1"),), "{}"), "x", 0)
            ),
            "denied",
        ),
        (ResponseEncoder().encode(Response(ResponseTemplate(ResponseKind.DENIED, 503, (), "{}"))), "failed"),
        (CheckResponse().SerializeToString(), "allowed"),
    ],
)
def test_the_outcome_of_a_check_is_read_from_its_first_bytes(response: bytes, outcome: str) -> None:
    """A response without a status is allowed, as Envoy interprets it."""
    first = (b"\0" + len(response).to_bytes(4) + response)[:9]
    assert grpc_methods.check_outcome(first) == outcome


def test_the_outcome_of_a_rate_limit_call_is_its_overall_code() -> None:
    firsts = [b"\0\0\0\0\2\x08\x01", b"\0\0\0\0\2\x08\x02", b"\0\0\0\0\0", b"\1\0\0\0\2\x08\x01"]
    assert [grpc_methods.rls_outcome(first) for first in firsts] == ["allowed", "denied", "failed", "failed"]


def test_a_call_with_a_grpc_error_in_its_trailers_is_not_a_decision() -> None:
    first = "000000011a0a001aa1"
    responses = [
        (first, OK_OF_GRPCIO, 7),
        (first, OK_OF_ENVOY, 5),
        (first, "000b677270632d737461747573023133", 2),
    ]
    assert grpc_outcomes(grpc_methods.check(), responses) == Counter({"allowed": 12, "grpc-status 13": 2})


Handler = Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]


@asynccontextmanager
async def service_of(handler: Handler) -> AsyncIterator[Target]:
    """Runs an ext_authz service with this handler, under the name of a ratelimitd target."""
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(handler)
    name = "envoy.service.auth.v3.Authorization"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Check": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Target(GRPCIO, TcpAddress("127.0.0.1", port), service_pid=os.getpid(), store_pid=os.getpid())
    finally:
        await server.stop(0)


async def _allow(_payload: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return echo.RESPONSE


async def _break(_payload: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    await context.abort(grpc.StatusCode.INTERNAL, "broken")


@pytest.mark.parametrize("concurrency", [Concurrency(1), Concurrency(3), STREAMS])
async def test_every_call_is_counted(tmp_path: Path, concurrency: Concurrency) -> None:
    """The number of calls is not a multiple of the concurrency."""
    async with service_of(_allow) as target:
        case = Case(Entry.DIRECT, Workload.MANY, concurrency, GRPCIO)
        sample = await measure(target, case, 1001, tmp_path)
    assert sample.denied == 0
    assert 0 < sample.mean_us <= sample.p99_us
    assert sample.rate > 0
    assert sample.service_us is not None
    assert sample.service_us > 0


@pytest.mark.parametrize(
    ("handler", "workload", "message"),
    [
        (_break, Workload.MANY, "responses that are not decisions: {'grpc-status 13': 50}"),
        (_allow, Workload.HOT, "0.0% of the responses were denials; expected 100%"),
    ],
)
async def test_wrong_responses_stop_the_bench(
    tmp_path: Path, handler: Handler, workload: Workload, message: str
) -> None:
    async with service_of(handler) as target:
        with pytest.raises(BenchError, match=re.escape(message)):
            await measure(target, Case(Entry.DIRECT, workload, Concurrency(2), GRPCIO), 50, tmp_path)


async def test_a_refused_connection_stops_the_bench(tmp_path: Path) -> None:
    async with service_of(_allow) as target:
        pass
    with pytest.raises(BenchError, match="refused"):
        await measure(target, Case(Entry.DIRECT, Workload.MANY, Concurrency(1), GRPCIO), 50, tmp_path)


def test_cpu_and_memory_include_child_processes() -> None:
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ntime.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = list(process_tree(process.pid))
        assert len(pids) == 2
        assert 0.2 <= cpu_s(process.pid) < 5
        assert 0 < memory(process.pid).pss <= memory(process.pid).rss
        for pid in reversed(pids):
            os.kill(pid, 9)
    with pytest.raises(BenchError, match="has ended"):
        cpu_s(process.pid)


def _sample(rate: float, service_us: float) -> Sample:
    return Sample(rate, 100.0, 200.0, 0.0, 5.0, service_us, None, 12.0)


def test_ratios_are_calculated_round_by_round() -> None:
    """In the second round the machine is half as fast, and the ratios stay the same."""
    assert ratios([60, 120], [30, 60]) == [2, 2]
    assert ratios([60, 120], [30]) == []
    results = {
        Case(Entry.DIRECT, Workload.MANY, STREAMS, "fast"): [_sample(9000, 60), _sample(4500, 120)],
        Case(Entry.DIRECT, Workload.MANY, STREAMS, "echo on the fast host"): [
            _sample(30000, 30),
            _sample(15000, 60),
        ],
    }
    first, *_ = load_goals(results)
    assert (first.row()[2], first.verdict()) == ("2.00", "yes")
    rows = load_table(results, Entry.DIRECT).rows
    assert rows[0][4:7] == ["6750 (4500..9000)", "90 (60..120)", "2.00"]
    assert rows[1][6] == "-"


def test_two_checkouts_are_compared_round_by_round() -> None:
    results = {
        Case(Entry.DIRECT, Workload.HOT, STREAMS, "fast"): [_sample(9000, 30), _sample(4500, 63)],
        Case(Entry.DIRECT, Workload.HOT, STREAMS, OTHER_CHECKOUT): [_sample(9000, 30), _sample(4500, 60)],
    }
    (row,) = compare.ratio_table(results, OTHER_CHECKOUT, "").rows
    assert row == ["one hot user, denied", "4 x 32", "1.025 (1.000..1.050)", *["1.000"] * 4]


def test_the_cost_of_observers_is_calculated_round_by_round() -> None:
    results = {
        Case(Entry.DIRECT, Workload.MANY, STREAMS, "fast"): [_sample(9000, 62), _sample(4500, 121)],
        Case(Entry.DIRECT, Workload.MANY, STREAMS, "fast, not observed"): [
            _sample(9000, 60),
            _sample(4500, 120),
        ],
    }
    allowed, *others = observation_goals(results)
    assert allowed.row()[1:] == ["at most 2", "1.50 (1.00..2.00)", "yes"]
    assert [goal.verdict() for goal in others] == ["-", "-"]


def test_a_goal_is_met_at_or_beyond_its_bound() -> None:
    assert Goal("", 2, [1, 3, 9]).verdict() == "no"
    assert Goal("", 2, [1, 3, 9], at_least=True).verdict() == "yes"
    assert Goal("", 2, []).verdict() == "-"


def test_tables_render_as_aligned_text_and_as_markdown() -> None:
    rows = [["grpcio", with_spread([1.0, 2.5, 9.0], 1)], ["fast", with_spread([])]]
    table = Table("Title", ["target", "us"], rows)
    assert plain(table) == (
        "Title\n\ntarget  us\n----------------------\ngrpcio  2.5 (1.0..9.0)\nfast    -\n"
    )
    assert markdown(table) == (
        "## Title\n\n| target | us |\n| --- | --- |\n| grpcio | 2.5 (1.0..9.0) |\n| fast | - |\n"
    )

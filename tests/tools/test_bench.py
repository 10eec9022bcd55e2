"""The bench runs, and what it reads, it reads right. A load that failed never becomes a figure."""

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

from bench import echo, h2load, messages
from bench.calls import Calls
from bench.calls import messages as texts
from bench.cpu import cpu_s, memory, tree
from bench.forms import GRPCIO, Form
from bench.goals import Goal, load_goals
from bench.http2 import LoadError
from bench.load import Sample, direct_outcomes, measure
from bench.options import parse
from bench.rounds import ratios
from bench.table import Table, load_table, markdown, plain, shown
from bench.works import STREAMS, Cell, Point, Way, Work, cells
from ratelimitd.address import TcpAddress
from ratelimitd.core.model import Answer, Reply, Verdict
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from ratelimitd.transport.ext_authz import decode, encode
from tests.programs import PATH, need
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
"""What h2load 1.52.0 printed for two connections and work that is half and half."""

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
"""Its log of the same load."""

NOBODY_THERE = """\
finished in 260us, 0.00 req/s, 0B/s
requests: 12 total, 0 started, 0 done, 0 succeeded, 12 failed, 12 errored, 0 timeout
"""

OK_OF_GRPCIO = "400b677270632d7374617475730130000c677270632d6d65737361676500"
OK_OF_ENVOY = "00889acac8b21234da8f0130"
"""Trailers as they came: grpc-status 0, once with an empty grpc-message, once alone and Huffman-coded."""


def bench(*arguments: str, path: str = PATH) -> subprocess.CompletedProcess[str]:
    """A run, as `make bench` starts it."""
    return subprocess.run(
        [*BENCH, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.timeout(300)  # half a minute, on a machine that has nothing else to do
def test_a_quick_run_loads_every_form() -> None:
    """Every row of every table is there, with figures, and nothing is left running."""
    need("h2load")
    done = bench("--quick")
    assert done.returncode == 0, done.stderr
    for cell in [
        *cells(Way.DIRECT, ["grpcio", "fast"], ["echo on grpc.aio", "echo in the same host"]),
        *cells(Way.FRONT, ["grpcio", "fast", "in the front Envoy"], ["Envoy with no limit"]),
    ]:
        row = rf"^{cell.work.value} +{cell.point} +{cell.form} +\d+% +\d+ "
        assert re.search(row, done.stdout, re.MULTILINE), row
    titles = ("Memory of the store", "Memory of the service", "Start-up", "Without I/O", "Goals")
    assert [title for title in titles if title not in done.stdout] == []
    goals = done.stdout.partition("Goals\n")[2].splitlines()[3:]
    assert [line for line in goals if line and not line.endswith(("yes", "no"))] == []


def test_without_h2load_it_says_what_to_type() -> None:
    """One sentence, status 1."""
    done = bench("--quick", path="/nonexistent")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "bench: h2load is missing: apt-get install nghttp2-client\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--forms", "slow"], "--forms: slow is none of grpcio, fast, front"),
        (["--rounds", "0"], "--rounds and --seconds must be above 0"),
        (["--rls", "8081"], "8081: it must be HOST:PORT"),
        (["--ext-authz", "unix:/tmp/a"], "unix:/tmp/a: it must be HOST:PORT"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], sentence: str) -> None:
    """Before anything is started."""
    with pytest.raises(LoadError, match=re.escape(sentence)):
        parse(arguments)


def test_h2loads_log_gives_statuses_and_times() -> None:
    """From a real load."""
    loaded = h2load.parse(OUTPUT, LOG.splitlines())
    assert loaded.seconds == pytest.approx(0.02687)
    assert loaded.statuses == {200: 6, 429: 6}
    assert loaded.mean_us == pytest.approx(4357.75)
    assert loaded.p99_us == 12379


@pytest.mark.parametrize(
    ("output", "log", "sentence"),
    [
        (NOBODY_THERE, "", "of 12 requests 12 failed"),
        (OUTPUT, LOG[: LOG.index("1795483792180429")], "10 ended"),
        (OUTPUT, LOG.replace("\t", " "), "another form"),
        ("Segmentation fault", "", "something else than expected"),
    ],
)
def test_a_load_that_failed_is_no_figure(output: str, log: str, sentence: str) -> None:
    """Whatever h2load makes of it."""
    with pytest.raises(LoadError, match=sentence):
        h2load.parse(output, log.splitlines())


def test_users_are_many_unless_one_is_hot(tmp_path: Path) -> None:
    """The paths that h2load walks, and the messages of the direct load."""
    paths = tmp_path / "paths"
    h2load.write_paths(Work.MIXED, paths, 2)
    assert [line.partition("front")[2] for line in paths.read_text().splitlines()] == [
        "/api/ping",
        "/api/many?u=0000",
        "/api/ping",
        "/api/many?u=0001",
    ]
    pieces = [piece.hex() for piece in messages.check().pieces]
    calls = Calls("", 0, "", 1, 1, 4, pieces, [(messages.HOT, 1), (0, 2)], 1)
    requests = [decode(text[5:]) for text in islice(texts(calls), 6)]
    users = [request.headers["x-user-id"] for request in requests]
    assert users == ["u99999999", "u00000000", "u99999999", "u00000001", "u99999999", "u00000000"]
    assert {request.context["api"] for request in requests} == {"/api/*"}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (encode(Answer(Verdict(Reply.OK, 200), "x", 1)), "allowed"),
        (encode(Answer(Verdict(Reply.DENIED, 429, (("retry-after", "1"),), "{}"), "x", 0)), "denied"),
        (encode(Answer(Verdict(Reply.DENIED, 503, (), "{}"))), "failed"),
        (CheckResponse().SerializeToString(), "allowed"),
    ],
)
def test_the_outcome_of_a_check_is_in_its_first_bytes(answer: bytes, outcome: str) -> None:
    """Also of an answer without any status, which Envoy takes for allowed."""
    begin = (b"\0" + len(answer).to_bytes(4) + answer)[:9]
    assert messages.check_outcome(begin) == outcome


def test_the_outcome_of_a_rate_limit_call_is_its_code() -> None:
    """OK, OVER_LIMIT, UNKNOWN."""
    begins = [b"\0\0\0\0\2\x08\x01", b"\0\0\0\0\2\x08\x02", b"\0\0\0\0\0", b"\1\0\0\0\2\x08\x01"]
    assert [messages.rls_outcome(begin) for begin in begins] == ["allowed", "denied", "failed", "failed"]


def test_the_status_of_a_call_is_read_from_its_trailers() -> None:
    """As real servers send them; a call that gRPC says failed is no decision, whatever it began with."""
    begin = "000000011a0a001aa1"
    answers = [
        (begin, OK_OF_GRPCIO, 7),
        (begin, OK_OF_ENVOY, 5),
        (begin, "000b677270632d737461747573023133", 2),
    ]
    assert direct_outcomes(messages.check(), answers) == Counter({"allowed": 12, "grpc-status 13": 2})


Handler = Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]


@asynccontextmanager
async def service_of(handler: Handler) -> AsyncIterator[Form]:
    """A service that answers so, taken for one of ours."""
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(handler)
    name = "envoy.service.auth.v3.Authorization"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Check": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Form(GRPCIO, TcpAddress("127.0.0.1", port), service=os.getpid(), store=os.getpid())
    finally:
        await server.stop(0)


async def _allow(_payload: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    return echo.ANSWER


async def _break(_payload: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    await context.abort(grpc.StatusCode.INTERNAL, "broken")


@pytest.mark.parametrize("point", [Point(1), Point(3), STREAMS])
async def test_every_call_is_answered_and_counted(tmp_path: Path, point: Point) -> None:
    """Also when their number does not divide by the calls at once."""
    async with service_of(_allow) as form:
        sample = await measure(form, Cell(Way.DIRECT, Work.MANY, point, GRPCIO), 1001, tmp_path)
    assert sample.denied == 0
    assert 0 < sample.mean_us <= sample.p99_us
    assert sample.rate > 0
    assert sample.service_us is not None
    assert sample.service_us > 0


@pytest.mark.parametrize(
    ("handler", "work", "sentence"),
    [
        (_break, Work.MANY, "no decisions: {'grpc-status 13': 50}"),
        (_allow, Work.HOT, "0.0% were denied, and it should be 100%"),
    ],
)
async def test_wrong_answers_stop_the_bench(
    tmp_path: Path, handler: Handler, work: Work, sentence: str
) -> None:
    """A benchmark of errors is worthless."""
    async with service_of(handler) as form:
        with pytest.raises(LoadError, match=re.escape(sentence)):
            await measure(form, Cell(Way.DIRECT, work, Point(2), GRPCIO), 50, tmp_path)


async def test_a_service_that_is_not_there_stops_the_bench(tmp_path: Path) -> None:
    """With the reason."""
    async with service_of(_allow) as form:
        pass
    with pytest.raises(LoadError, match="refused"):
        await measure(form, Cell(Way.DIRECT, Work.MANY, Point(1), GRPCIO), 50, tmp_path)


def test_cpu_and_memory_are_those_of_the_tree() -> None:
    """A parent that sleeps, and a child that works."""
    busy = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ntime.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = list(tree(process.pid))
        assert len(pids) == 2
        assert 0.2 <= cpu_s(process.pid) < 5
        assert 0 < memory(process.pid).pss <= memory(process.pid).rss
        for pid in reversed(pids):
            os.kill(pid, 9)
    with pytest.raises(LoadError, match="has ended"):
        cpu_s(process.pid)


def _sample(rate: float, service_us: float) -> Sample:
    return Sample(rate, 100.0, 200.0, 0.0, 5.0, service_us, None, 12.0)


def test_ratios_are_made_round_by_round() -> None:
    """A minute in which everything was twice as slow changes no ratio."""
    assert ratios([60, 120], [30, 60]) == [2, 2]
    assert ratios([60, 120], [30]) == []
    results = {
        Cell(Way.DIRECT, Work.MANY, STREAMS, "fast"): [_sample(9000, 60), _sample(4500, 120)],
        Cell(Way.DIRECT, Work.MANY, STREAMS, "echo in the same host"): [
            _sample(30000, 30),
            _sample(15000, 60),
        ],
    }
    first, *_ = load_goals(results)
    assert (first.row()[2], first.verdict()) == ("2.00", "yes")
    rows = load_table(results, Way.DIRECT).rows
    assert rows[0][4:7] == ["6750 (4500..9000)", "90 (60..120)", "2.00"]
    assert rows[1][6] == "-"


def test_a_goal_is_met_on_its_own_side() -> None:
    """At most, at least, and neither when nothing was measured."""
    assert Goal("", 2, [1, 3, 9]).verdict() == "no"
    assert Goal("", 2, [1, 3, 9], at_least=True).verdict() == "yes"
    assert Goal("", 2, []).verdict() == "-"


def test_tables_are_for_terminals_and_for_documents() -> None:
    """The same cells."""
    table = Table("Title", ["form", "us"], [["grpcio", shown([1.0, 2.5, 9.0], 1)], ["fast", shown([])]])
    assert plain(table) == (
        "Title\n\nform    us\n----------------------\ngrpcio  2.5 (1.0..9.0)\nfast    -\n"
    )
    assert markdown(table) == (
        "### Title\n\n| form | us |\n| --- | --- |\n| grpcio | 2.5 (1.0..9.0) |\n| fast | - |\n"
    )

"""Runs one load against one target and checks that the responses are the ones that the workload requires."""

import asyncio
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hpack import Decoder, HPACKError

from bench import h2load
from bench.errors import BenchError
from bench.grpc_load import LoadResult, LoadSpec
from bench.grpc_methods import Method
from bench.launch import ROOT
from bench.process_usage import cpu_s
from bench.targets import EXTERNAL, Target
from bench.workloads import DENIED_SHARE, USERS, Case, Entry, user_ranges

TIMEOUT_S = 60.0
_DENIED, _ALLOWED = 429, 200
_TOLERANCE = 0.002
"""Permitted error of the share of denials, in addition to the calls in flight when the load ends."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Figures of one load. CPU is in us per request; None means unknown or not involved."""

    rate: float
    mean_us: float
    p99_us: float
    denied: float
    load_us: float
    service_us: float | None
    envoy_us: float | None
    store_us: float | None

    @property
    def total_us(self) -> float | None:
        """Service plus Envoy, for load through Envoy: comparable wherever the service runs."""
        return None if self.envoy_us is None else self.envoy_us + (self.service_us or 0)


@dataclass(frozen=True, slots=True)
class _Load:
    """Result of a load of either kind. `cpu_s` is the CPU of the load generator."""

    seconds: float
    mean_us: float
    p99_us: float
    cpu_s: float
    outcomes: Counter[str]


async def measure(target: Target, case: Case, calls: int, folder: Path, users: int = USERS) -> Sample:
    """Sends this number of calls. Raises BenchError if any failed or the share of denials is wrong."""
    pids = {"service": target.service_pid, "store": target.store_pid}
    if case.entry is Entry.ENVOY and target.front is not None:
        pids["envoy"] = target.front.pid
    known = {name: pid for name, pid in pids.items() if pid is not None}
    before = {name: cpu_s(pid) for name, pid in known.items()}
    if case.entry is Entry.DIRECT:
        load = await _load_directly(target, case, calls, users)
    else:
        load = await _load_through_envoy(target, case, calls, folder)
    used_us = {name: (cpu_s(pid) - before[name]) / calls * 1e6 for name, pid in known.items()}
    _check_outcomes(target, case, load.outcomes)
    return Sample(
        rate=calls / load.seconds,
        mean_us=load.mean_us,
        p99_us=load.p99_us,
        denied=load.outcomes["denied"] / calls,
        load_us=load.cpu_s / calls * 1e6,
        service_us=used_us.get("service"),
        envoy_us=used_us.get("envoy"),
        store_us=used_us.get("store"),
    )


async def _load_directly(target: Target, case: Case, calls: int, users: int) -> _Load:
    if target.address is None:
        raise BenchError(f"{target.name} does not accept direct load")
    spec = LoadSpec(
        target.address.host,
        target.address.port,
        target.method.path,
        case.concurrency.connections,
        case.concurrency.streams,
        calls,
        [piece.hex() for piece in target.method.pieces],
        user_ranges(case.workload, users),
        TIMEOUT_S,
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "bench.grpc_load"]
    output = await _run(command, json.dumps(asdict(spec)) + "\n", environ)
    result = LoadResult(**json.loads(output))
    outcomes = grpc_outcomes(target.method, result.responses)
    return _Load(result.seconds, result.mean_us, result.p99_us, result.cpu_s, outcomes)


def grpc_outcomes(method: Method, responses: Sequence[tuple[str, str, int]]) -> Counter[str]:
    """Counts `allowed` and `denied` responses; failed calls are counted by their grpc-status."""
    outcomes: Counter[str] = Counter()
    for first, trailers, number in responses:
        status = _grpc_status(bytes.fromhex(trailers))
        outcome = method.outcome(bytes.fromhex(first)) if status == "0" else f"grpc-status {status}"
        outcomes[outcome] += number
    return outcomes


def _grpc_status(trailers: bytes) -> str:
    try:
        fields = Decoder().decode(trailers, raw=True)
    except HPACKError as error:
        raise BenchError("the server uses a dynamic header table although the client disabled it") from error
    return next((value.decode() for name, value in fields if name == b"grpc-status"), "missing")


async def _load_through_envoy(target: Target, case: Case, calls: int, folder: Path) -> _Load:
    if target.front is None:
        raise BenchError(f"{target.name} has no front Envoy")
    urls, log = folder / f"{case.workload.name}.urls", folder / "h2load.log"
    if not urls.exists():
        h2load.write_urls(case.workload, urls)
    log.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = h2load.command(target.front.address, case.concurrency.connections, calls, urls, log)
    output = await _run(command, "", os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = h2load.parse(output, log.read_text().splitlines())
    names = {_ALLOWED: "allowed", _DENIED: "denied"}
    outcomes: Counter[str] = Counter()
    for status, number in result.statuses.items():
        outcomes[names.get(status, f"status {status}")] += number
    used_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return _Load(result.seconds, result.mean_us, result.p99_us, used_s, outcomes)


def _check_outcomes(target: Target, case: Case, outcomes: Counter[str]) -> None:
    where = f"{case.target}, {case.entry}, {case.workload}, concurrency {case.concurrency}"
    failed = {name: number for name, number in outcomes.items() if name not in {"allowed", "denied"}}
    if failed:
        raise BenchError(f"{where}: responses that are not decisions: {failed}")
    limited = target.store_pid is not None and target.name != EXTERNAL
    denied, expected = outcomes["denied"] / outcomes.total(), DENIED_SHARE[case.workload]
    tolerance = _TOLERANCE + case.concurrency.in_flight / outcomes.total()
    if limited and abs(denied - expected) > tolerance:
        raise BenchError(f"{where}: {denied:.1%} of the responses were denials; expected {expected:.0%}")


async def _run(command: Sequence[str], text: str, environ: Mapping[str, str]) -> str:
    """Runs a program with `text` as its input and returns its output. Raises BenchError on failure."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S + 10):
            output, errors = await process.communicate(text.encode())
    except TimeoutError as error:
        raise BenchError(f"{command[0]} took longer than {TIMEOUT_S + 10:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise BenchError(errors.decode(errors="replace").strip()[-500:] or f"{command[0]} failed")
    return output.decode()

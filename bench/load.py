"""One load on one form: how fast, at whose cost, and whether the answers are those that the work must get."""

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
from bench.calls import Called, Calls
from bench.cpu import cpu_s
from bench.forms import ROOT, YOURS, Form
from bench.http2 import LoadError
from bench.messages import Method
from bench.works import DENIED, USERS, Cell, Way, turns

TIMEOUT_S = 60.0
_DENIED, _ALLOWED = 429, 200
_SLACK = 0.002
"""How far the share of denials may be off, beside the calls at once: the last turns are not full."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one load gave. CPU is in us per decision; None: not known, or no part of this."""

    rate: float
    mean_us: float
    p99_us: float
    denied: float
    load_us: float
    service_us: float | None
    envoy_us: float | None
    store_us: float | None

    @property
    def both_us(self) -> float | None:
        """Service and Envoy together, through Envoy: what a form costs, wherever the service runs."""
        return None if self.envoy_us is None else self.envoy_us + (self.service_us or 0)


async def measure(form: Form, cell: Cell, calls: int, folder: Path, users: int = USERS) -> Sample:
    """Sends so many calls. Raises LoadError when one failed, or too many or too few were denied."""
    pids = {"service": form.service, "store": form.store}
    if cell.way is Way.FRONT and form.front is not None:
        pids["envoy"] = form.front[1]
    known = {name: pid for name, pid in pids.items() if pid is not None}
    before = {name: cpu_s(pid) for name, pid in known.items()}
    if cell.way is Way.DIRECT:
        seconds, mean_us, p99_us, load_s, outcomes = await _direct(form, cell, calls, users)
    else:
        seconds, mean_us, p99_us, load_s, outcomes = await _through(form, cell, calls, folder)
    used_us = {name: (cpu_s(pid) - before[name]) / calls * 1e6 for name, pid in known.items()}
    denied = outcomes["denied"] / calls
    _judge(form, cell, outcomes, denied)
    return Sample(
        rate=calls / seconds,
        mean_us=mean_us,
        p99_us=p99_us,
        denied=denied,
        load_us=load_s / calls * 1e6,
        service_us=used_us.get("service"),
        envoy_us=used_us.get("envoy"),
        store_us=used_us.get("store"),
    )


_Figures = tuple[float, float, float, float, Counter[str]]


async def _direct(form: Form, cell: Cell, calls: int, users: int) -> _Figures:
    if form.address is None:
        raise LoadError(f"{form.name} cannot be asked directly")
    asked = Calls(
        form.address.host,
        form.address.port,
        form.method.path,
        cell.point.connections,
        cell.point.streams,
        calls,
        [piece.hex() for piece in form.method.pieces],
        turns(cell.work, users),
        TIMEOUT_S,
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "bench.calls"]
    output = await run(command, json.dumps(asdict(asked)) + "\n", environ)
    called = Called(**json.loads(output))
    outcomes = direct_outcomes(form.method, called.answers)
    return called.seconds, called.mean_us, called.p99_us, called.cpu_s, outcomes


def direct_outcomes(method: Method, answers: Sequence[tuple[str, str, int]]) -> Counter[str]:
    """How many answers were `allowed` or `denied`; any other is named by its grpc-status."""
    outcomes: Counter[str] = Counter()
    for begin, trailers, number in answers:
        status = _grpc_status(bytes.fromhex(trailers))
        outcome = method.outcome(bytes.fromhex(begin)) if status == "0" else f"grpc-status {status}"
        outcomes[outcome] += number
    return outcomes


def _grpc_status(trailers: bytes) -> str:
    try:
        fields = Decoder().decode(trailers, raw=True)
    except HPACKError as error:
        raise LoadError("the peer uses a dynamic table of headers although it was told not to") from error
    return next((value.decode() for name, value in fields if name == b"grpc-status"), "missing")


async def _through(form: Form, cell: Cell, calls: int, folder: Path) -> _Figures:
    if form.front is None:
        raise LoadError(f"{form.name} has no Envoy before it")
    paths, log = folder / f"{cell.work.name}.paths", folder / "h2load.log"
    if not paths.exists():
        h2load.write_paths(cell.work, paths)
    log.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = await run(
        h2load.command(form.front[0], cell.point.connections, calls, paths, log), "", os.environ
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = h2load.parse(output, log.read_text().splitlines())
    names = {_ALLOWED: "allowed", _DENIED: "denied"}
    outcomes: Counter[str] = Counter()
    for status, number in loaded.statuses.items():
        outcomes[names.get(status, f"status {status}")] += number
    load_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return loaded.seconds, loaded.mean_us, loaded.p99_us, load_s, outcomes


def _judge(form: Form, cell: Cell, outcomes: Counter[str], denied: float) -> None:
    what = f"{cell.form}, {cell.way}, {cell.work}, {cell.point} at once"
    failed = {name: number for name, number in outcomes.items() if name not in {"allowed", "denied"}}
    if failed:
        raise LoadError(f"{what}: answers that are no decisions: {failed}")
    limited = form.store is not None and form.name != YOURS
    slack = _SLACK + cell.point.in_flight / outcomes.total()
    if limited and abs(denied - DENIED[cell.work]) > slack:
        raise LoadError(f"{what}: {denied:.1%} were denied, and it should be {DENIED[cell.work]:.0%}")


async def run(command: Sequence[str], text: str, environ: Mapping[str, str]) -> str:
    """What a program printed, given `text`. Raises LoadError when it fails or takes too long."""
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
        raise LoadError(f"{command[0]} took longer than {TIMEOUT_S + 10:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise LoadError(errors.decode(errors="replace").strip()[-500:] or f"{command[0]} failed")
    return output.decode()

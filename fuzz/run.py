"""Attacks a service of its own, with a store of its own, and observes both."""

import asyncio
import json
import os
import secrets
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.errors import BenchError
from bench.launch import is_serving
from bench.process_usage import memory
from fuzz.attack import attack
from fuzz.outcome import Outcome, User
from fuzz.tally import Tally
from ratelimitd.address import TcpAddress
from ratelimitd.process.child import Child, child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import CONFIG_KEY, PREFIX
from ratelimitd.store.client import open_client
from ratelimitd.store.embedded import embedded_store

SERVE = ("-P", "-m", "ratelimitd")
"""The arguments of Python that start the service."""

PARTS = 10
"""The memory of the service is measured after each part of the attack, because the first fills its tables."""

_MANY = 1_000_000_000
"""A capacity that the attack does not exhaust, so every valid call takes tokens."""
_IDLE = {b"tokens": b"7", b"last": b"1"}


def _limits() -> str:
    tiers = ("global", "user", "user_api")
    return json.dumps({f"{t}_capacity": _MANY for t in tiers} | {f"{t}_rate": 0.000001 for t in tiers})


async def fuzzed(
    transport: str,
    messages: int,
    seed: int,
    folder: Path,
    *,
    serve: Sequence[str] = SERVE,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Attacks a service with this transport, and returns the outcome.

    The log of the service is written to `folder`, and so is what the last connections of the attack sent.
    `serve` replaces the arguments of Python that start the service. `on_progress` gets the number of
    messages so far, PARTS times.
    """
    address = TcpAddress(LOOPBACK, free_port())
    log = folder / f"{transport}.log"
    victim, bystander = (f"{name}-{secrets.token_hex(8)}" for name in ("victim", "bystander"))
    async with embedded_store() as url, open_client(url) as store:
        await store.set(CONFIG_KEY, _limits())
        await store.hset(f"rate:user:{bystander}", mapping={"tokens": "7", "last": "1"})
        async with _service(transport, url, address, log, serve) as service, _user(address, victim) as user:
            started_s = time.perf_counter()
            tally, grown_bytes = await _attacked(
                service, address, messages, seed, on_progress, over_http1=transport == "fast"
            )
            took_s = time.perf_counter() - started_s
            status, serving = service.process.returncode, await is_serving(address)
            noticed = await user.result()
        _save(tally.sent, folder / f"{transport}-sent")
        left = await store.hget(f"rate:user:{victim}", "tokens")
        return Outcome(
            transport=transport,
            messages=tally.kinds,
            unread=tally.unread,
            connections=tally.connections,
            responses=tally.responses,
            stuck=tally.stuck,
            undecided=tally.undecided,
            took_s=took_s,
            grown_bytes=grown_bytes,
            status=status,
            serving=serving,
            errors=_errors(log),
            user=noticed,
            spent=_MANY - round(float(left or _MANY)),
            untouched=await store.hgetall(f"rate:user:{bystander}") == _IDLE,
        )


@asynccontextmanager
async def _service(
    transport: str, url: str, address: TcpAddress, log: Path, serve: Sequence[str]
) -> AsyncIterator[Child]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | {
        "RATELIMITD_REDIS_URL": url,
        "RATELIMITD_TRANSPORT": transport,
        "RATELIMITD_STORE_TIMEOUT_MS": "5000",  # a slow machine must not cause undecided calls
        "RATELIMITD_METRICS_LISTEN": f"{LOOPBACK}:0",
        "RATELIMITD_LEAVE_S": "0",
    }
    command = [sys.executable, *serve, "serve", "--listen", str(address)]
    async with child(f"ratelimitd {transport}", command, log, environ) as service:
        await service.until(lambda: is_serving(address))
        yield service


class _RunningUser:
    def __init__(self, process: Process) -> None:
        self._process = process

    async def result(self) -> User:
        output, _ = await self._process.communicate(b"")
        return User(**json.loads(output))


@asynccontextmanager
async def _user(address: TcpAddress, name: str) -> AsyncIterator[_RunningUser]:
    """Runs a user until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "fuzz.victim", str(address), name, stdin=PIPE, stdout=PIPE
    )
    try:
        connected = await process.stdout.readline()  # type: ignore[union-attr] # it is a pipe
        if not connected:
            raise BenchError("the user beside the attack could not connect")
        yield _RunningUser(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _attacked(
    service: Child,
    address: TcpAddress,
    messages: int,
    seed: int,
    on_progress: Callable[[int], None],
    *,
    over_http1: bool,
) -> tuple[Tally, int]:
    """Attacks a service. Returns the counts, and the growth of its memory after the first tenth, in bytes."""
    tally, sizes = Tally(wanted=0), list[int]()
    for part in range(1, PARTS + 1):
        tally.wanted = messages * part // PARTS
        await attack(address, f"{seed}-{part}", tally, over_http1=over_http1)
        sizes.append(_memory_bytes(service))
        on_progress(tally.messages)
    return tally, sizes[-1] - sizes[0]


def _memory_bytes(service: Child) -> int:
    try:
        return memory(service.process.pid).pss
    except BenchError:  # it has ended, which is a fault of its own
        return 0


def _save(sent: Iterable[bytearray], folder: Path) -> None:
    folder.mkdir()
    for number, data in enumerate(sent):
        (folder / f"{number:03}").write_bytes(data)


def _errors(log: Path) -> list[str]:
    """Returns what reports a defect in a log: events of level error, and lines that are not JSON.

    `library_error` is a complaint of grpc about the bytes of a caller.
    """
    found = set[str]()
    for line in log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            found.add(line[:200])
            continue
        if entry["level"] == "error" and entry["event"] != "library_error":
            found.add(entry["event"])
    return sorted(found)

"""Load on a running system, and the instants of the fault."""

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field

from drills.errors import DrillError
from drills.load import LoadSpec
from drills.records import Record, recovery_s
from drills.waiting import until

RECOVERY_LIMIT_S = 30.0
"""How long after the end of a fault a drill waits for the system to recover."""

_STOP_S = 10.0


@dataclass
class Traffic:
    """The requests of a drill so far.

    Args:
        spec: the load.
        records: the requests that have ended.
        began_s: when the fault began; 0.0 before.
        over_s: when its cause was gone, or when it began if the system has to live with it.
    """

    spec: LoadSpec
    records: list[Record] = field(default_factory=list)
    began_s: float = 0.0
    over_s: float = 0.0

    def begin(self) -> None:
        """Notes that the fault begins now, and that it does not end by itself."""
        self.began_s = self.over_s = time.monotonic()

    def over(self) -> None:
        """Notes that the cause of the fault is gone now."""
        self.over_s = time.monotonic()

    async def steady(self) -> None:
        """Waits until roomy users are served. Raises DrillError if the system does not get there."""
        self.over_s = time.monotonic()
        await until(self._has_recovered, RECOVERY_LIMIT_S, "a steady load before the fault")

    async def recovered(self) -> None:
        """Waits until the system has recovered, or RECOVERY_LIMIT_S have passed."""
        with suppress(DrillError):
            await until(self._has_recovered, RECOVERY_LIMIT_S, "recovery")

    async def _has_recovered(self) -> bool:
        return self.recovery_s is not None

    @property
    def recovery_s(self) -> float | None:
        """How long after the fault the system had recovered; None if it has not."""
        return recovery_s(self.records, self.over_s)

    async def answers(self, seconds: float, status: int) -> None:
        """Waits until a request ends with this status. Raises DrillError if none does within `seconds`."""
        seen = len(self.records)

        async def answered() -> bool:
            return any(record.status == status for record in self.records[seen:])

        await until(answered, seconds, f"an answer with status {status}")


@asynccontextmanager
async def traffic(spec: LoadSpec) -> AsyncIterator[Traffic]:
    """Sends load until the end of the block, and waits for its last responses."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "drills.load", json.dumps(asdict(spec))),
        stdin=PIPE,
        stdout=PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101 - for mypy: it is a pipe
    assert process.stdout is not None  # noqa: S101 - as above
    sent = Traffic(spec)
    reading = asyncio.create_task(_read(process.stdout, sent.records))
    try:
        yield sent
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(spec.timeout_s + _STOP_S):
                await reading
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _read(lines: asyncio.StreamReader, records: list[Record]) -> None:
    async for line in lines:
        due_s, sent_s, ended_s, user, status = line.decode().split()
        records.append(Record(float(due_s), float(sent_s), float(ended_s), user, int(status)))

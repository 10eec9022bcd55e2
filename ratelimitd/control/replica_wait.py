"""Waits until the replicas run a revision."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from ratelimitd.control.answers import ReplicaStatus, Status
from ratelimitd.display import age
from ratelimitd.errors import StoreError, WaitError

STATUS_INTERVAL_S = 0.05
"""Pause between two reads of the status."""

LAST_READ_S = 1.0
"""How long a read of the status may take at the end of the timeout."""

ReadStatus = Callable[[], Awaitable[Status]]


async def wait_for_replicas(read_status: ReadStatus, number: int, timeout_s: float) -> Status:
    """Returns the status once every listed replica runs revision `number` or a newer one.

    Raises WaitError, and StoreError if the store fails or does not answer: the revision is accepted then.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        status = await _status_by(deadline_s, read_status, number)
        behind = [_and_silence(one, status.now_us) for one in status.replicas if one.number < number]
        if not behind:
            return status
        if time.monotonic() >= deadline_s:
            raise WaitError(
                f"after {timeout_s:g} s revision {number} does not run yet on {', '.join(behind)}"
            )
        await asyncio.sleep(STATUS_INTERVAL_S)


async def _status_by(deadline_s: float, read_status: ReadStatus, number: int) -> Status:
    """Returns the status. Bounds one read to the deadline, or to LAST_READ_S if that is later."""
    try:
        async with asyncio.timeout(max(deadline_s - time.monotonic(), LAST_READ_S)):
            return await read_status()
    except (StoreError, TimeoutError) as error:
        reason = str(error) or "the store did not answer in time"
        raise StoreError(
            f"revision {number} is accepted; whether the replicas run it is unknown: {reason}"
        ) from error


def _and_silence(replica: ReplicaStatus, now_us: int) -> str:
    """Returns the id of a replica, and how long it has been silent."""
    return f"{replica.id} (not seen for {age(replica.age_us(now_us))})" if replica.silent else replica.id

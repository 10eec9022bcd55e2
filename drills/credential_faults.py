"""Changes of the password of the store's user."""

import asyncio
import time
from pathlib import Path

from redis.asyncio import Redis

from drills.drill import BOTH, Drill, Result, Site, result
from drills.loaded import loaded
from drills.records import failed
from drills.stores import redis_server

_USER = "ratelimitd"
_OLD, _NEW = "old-secret", "new-secret"
_RIGHTS = ("on", "allkeys", "allchannels", "allcommands")


async def rotated(site: Site) -> Result:
    """Adds a password, changes the file of the replicas, and removes the old password.

    At the end Redis closes all connections of the user, so that the replicas must use the new password.
    """
    password = site.folder / "password"
    _write(password, _OLD)
    settings = {"redis_username": _USER, "redis_password_file": str(password)}
    async with redis_server(site.folder) as store, store.client() as client:
        await _set_user(client, *_RIGHTS, f">{_OLD}")
        async with loaded(site, store.url, settings=settings) as (_, sent):
            sent.begin()
            await _set_user(client, f">{_NEW}")
            _write(password, _NEW)
            await asyncio.sleep(site.seconds)
            await _set_user(client, f"<{_OLD}")
            await asyncio.sleep(site.seconds)
            closed_s = time.monotonic()
            await client.execute_command("CLIENT", "KILL", "USER", _USER)  # type: ignore[no-untyped-call] # redis-py
            sent.over()
        refused = await client.execute_command("ACL", "LOG")  # type: ignore[no-untyped-call] # as above
    lost = sum(failed(record) and sent.began_s <= record.ended_s < closed_s for record in sent.records)
    broken = ["Redis refused a login"] if refused else []
    return result(sent, broken=broken, note=f"{lost} lost before Redis closed the connections")


async def _set_user(client: Redis, *rules: str) -> None:
    await client.execute_command("ACL", "SETUSER", _USER, *rules)  # type: ignore[no-untyped-call] # redis-py


def _write(path: Path, text: str) -> None:
    """Replaces the file at once, as a mounted secret is replaced."""
    new = path.with_suffix(".new")
    new.write_text(text + "\n")
    new.replace(path)


DRILLS = [
    Drill("password-rotation", "rotation of the password of Redis", rotated, transports=BOTH),
]

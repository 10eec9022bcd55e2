"""A Redis with a user whose password changes, and files that change as operators and Kubernetes do it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from tests.redis_server import redis_server

USER = "ratelimitd"
OLD, NEW = "old-hunter2", "new-hunter2"


async def set_user(store: Redis, *rules: str) -> None:
    """Changes the user of the service."""
    await store.execute_command("ACL", "SETUSER", USER, *rules)  # type: ignore[no-untyped-call] # it is untyped


async def connections(store: Redis) -> set[int]:
    """Returns the numbers of the service's connections."""
    return {int(one["id"]) for one in await store.client_list() if one["user"] == USER}


def write_in_place(path: Path, text: str) -> None:
    """Overwrites a file."""
    path.write_text(text + "\n")


def swap_link(path: Path, text: str) -> None:
    """Changes a file in the way of Kubernetes: it is a link through a link to a folder that is replaced."""
    data = path.parent / "..data"
    folder = path.parent / f"..{text}"
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_text(text)
    new = path.parent / "..data_tmp"
    new.symlink_to(folder.name)
    new.replace(data)
    if not path.is_symlink():
        path.symlink_to(Path("..data") / path.name)


@asynccontextmanager
async def store_with_user() -> AsyncIterator[tuple[str, Redis]]:
    """Yields HOST:PORT of a Redis whose user has the password OLD, and a client that may do everything."""
    async with redis_server() as (address, store):
        await set_user(store, "on", f">{OLD}", "allkeys", "allchannels", "allcommands")
        yield address, store

"""Runs a redis-server of the operating system, for tests that need a configuration of their own."""

import asyncio
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.process.loopback import LOOPBACK, free_port
from tests.eventually import eventually
from tests.required_programs import need


@asynccontextmanager
async def redis_server(
    *options: str, port: int | None = None, bind: str = LOOPBACK, sentinel: bool = False
) -> AsyncIterator[tuple[str, Redis]]:
    """Yields HOST:PORT of a server with these options, and a client that may do everything."""
    need("redis-server")
    port = port or free_port()
    with TemporaryDirectory(prefix="ratelimitd-") as folder:
        config = Path(folder) / "redis.conf"
        config.touch()
        process = await asyncio.create_subprocess_exec(
            *("redis-server", config, "--port", str(port), "--bind", bind, "--dir", folder),
            *(("--sentinel",) if sentinel else ("--save", "")),
            *options,
            stdout=DEVNULL,
        )
        try:
            async with Redis(host=bind, port=port, protocol=2) as client:

                async def answers() -> bool:
                    assert process.returncode is None, "redis-server ended"
                    try:
                        return bool(await client.ping())
                    except NotConnectedError:
                        return False

                await eventually(answers, "redis-server answers")
                yield f"{bind}:{port}", client
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

"""Redis servers that drills may kill, freeze and start again."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import ResponseError

from drills.errors import NotPossibleError
from drills.restartable import Restartable
from ratelimitd.process.loopback import LOOPBACK, free_port

_CONFIG = "redis.conf"

IN_MEMORY = ("--save", "", "--appendonly", "no")
ON_DISK = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")


def redis_program() -> str:
    """Returns the path of redis-server. Raises NotPossibleError without one."""
    found = shutil.which("redis-server")
    if found is None:
        raise NotPossibleError("needs redis-server: apt-get install redis-server")
    return found


def redis_version() -> str:
    """Returns the version of redis-server, or `missing`."""
    try:
        command = [redis_program(), "--version"]
    except NotPossibleError:
        return "missing"
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - no input
    return text.partition("v=")[2].partition(" ")[0]


class RedisServer(Restartable):
    """A redis-server with a data folder that outlives its process.

    Args:
        folder: for its data and its log.
        options: command-line options.
        port: where it listens.
        host: the address that it binds, of loopback.
        program: the server's program.
        environ: its environment.
        config: the text of its first configuration file, which a Sentinel rewrites; empty for none.
    """

    def __init__(
        self,
        folder: Path,
        options: Sequence[str] = IN_MEMORY,
        *,
        port: int | None = None,
        host: str = LOOPBACK,
        program: str | None = None,
        environ: Mapping[str, str] | None = None,
        config: str = "",
    ) -> None:
        self.host, self.port = host, port or free_port()
        self._folder = folder / f"redis-{host}-{self.port}"
        self._config = config
        command = [
            program or redis_program(),
            *([str(self._folder / _CONFIG)] if config else []),
            "--bind",
            host,
            "--port",
            str(self.port),
            "--dir",
            str(self._folder),
            *options,
        ]
        super().__init__(
            "redis-server", command, os.environ if environ is None else environ, self._folder / "log"
        )

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://{self.host}:{self.port}/0"

    async def start(self) -> None:
        """Starts it, and returns once it answers."""
        if not self._folder.exists():
            self._folder.mkdir()
            (self._folder / _CONFIG).write_text(self._config)
        process = await self.launch()
        await process.until(self._answers)

    async def _answers(self) -> bool:
        async with self.client() as client:
            try:
                return bool(await client.ping())
            except ResponseError as error:
                return str(error).startswith(("NOAUTH", "MASTERDOWN"))
            except (NotConnectedError, TimeoutError):
                return False

    def client(self) -> Redis:
        """Returns a client of this server, whatever its role."""
        return Redis(host=self.host, port=self.port, protocol=2, socket_timeout=5)


@asynccontextmanager
async def redis_server(
    folder: Path, options: Sequence[str] = IN_MEMORY, *, host: str = LOOPBACK, port: int | None = None
) -> AsyncIterator[RedisServer]:
    """Runs a server until the end of the block."""
    server = RedisServer(folder, options, host=host, port=port)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()

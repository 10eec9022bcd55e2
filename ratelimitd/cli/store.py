"""How the commands for operators reach the store: with the settings of the service, from the environment."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from ratelimitd import settings
from ratelimitd.control.control import Control
from ratelimitd.errors import SettingsError
from ratelimitd.settings import EMBEDDED, Settings, env_name
from ratelimitd.store.client import open_client

RedisUrl = Annotated[
    str | None,
    typer.Option(
        help=f"The store of the service, as the setting names it. [env: {env_name('redis_url')}]",
        metavar="URL",
        show_default=False,
    ),
]
"""The one setting that is a flag of every such command."""


def chosen(redis_url: str | None) -> Settings:
    """The settings, with this flag. Raises SettingsError."""
    return settings.load(os.environ, flags={"redis_url": redis_url})


@asynccontextmanager
async def control_over(redis_url: str | None) -> AsyncIterator[Control]:
    """The control of the limits in the store of the settings.

    It connects when first used, and waits at most 5 s for each answer, the driver's own bound. Raises
    SettingsError.
    """
    loaded = chosen(redis_url)
    if loaded.redis_url == EMBEDDED:
        raise SettingsError(
            f"{env_name('redis_url')}: an `embedded` store belongs to the service that started it; "
            "name its URL, which that service logs"
        )
    async with open_client(loaded.redis_url) as client:
        yield Control(client, loaded)

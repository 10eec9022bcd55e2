"""A control with one revision, and a browser that is signed in."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from ratelimitd.control.control import Control
from ratelimitd.rollout.expected import Expected
from tests.admin.panel.browser import FULL, SETTINGS, Browser, browsing


@pytest.fixture
async def control(store: Redis) -> Control:
    """A control whose store holds one revision, by alice."""
    control = Control(store, SETTINGS)
    await control.apply(FULL, author="alice", note="the first", expected=Expected(0))
    return control


@pytest.fixture
async def browser(control: Control) -> AsyncIterator[Browser]:
    """A browser signed in as carol, with a key that allows changes."""
    async with browsing(control) as browser:
        await browser.sign_in()
        yield browser

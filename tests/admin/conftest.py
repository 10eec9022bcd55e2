"""The admin service in this process, and clients with each kind of key."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import pytest
from redis.asyncio import Redis
from starlette.applications import Starlette

from ratelimitd.admin.admin_keys import AdminKeys
from ratelimitd.admin.app import admin_app
from ratelimitd.control.control import Control
from ratelimitd.core.model import Request
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.settings import Settings, load
from ratelimitd.store.client import open_client
from ratelimitd.transport.client import CheckReply
from tests.limits import KEY
from tests.replicas import replica

WRITE_KEY = "the-key-that-may-change"
READ_KEY = "the-key-that-may-look"
KEYS = AdminKeys((WRITE_KEY,), (READ_KEY,))
NOWHERE = "redis://127.0.0.1:1/0"


@dataclass
class Service:
    """Stands for a running service that is asked: it answers as told, and remembers what it was asked."""

    asked: list[tuple[str, Request, bool]] = field(default_factory=list)
    answer: CheckReply | Exception = field(
        default_factory=lambda: CheckReply("denied", 429, {"retry-after": "1"}, "{}", {"tier": "user"}, "OK")
    )

    async def __call__(self, target: str, question: Request, *, dry_run: bool) -> CheckReply:
        """Answers one Check."""
        self.asked.append((target, question, dry_run))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def run_replica(store: Redis, name: str, number: int, *, started_us: int = 0) -> None:
    """A replica that was seen just now, and runs this revision."""
    seconds, micros = await store.time()
    now_us = seconds * 1_000_000 + micros
    await Replicas(store, KEY).publish(
        replica(name, number=number, transport="fast", started_us=started_us, seen_us=now_us)
    )


class Connect(Protocol):
    """Makes a client of an application; without a key when there is none."""

    def __call__(self, app: Starlette, key: str | None = None) -> httpx.AsyncClient:
        """The client, which is closed after the test."""


@pytest.fixture
def settings() -> Settings:
    """Those of the service."""
    return load({}, {})


@pytest.fixture
def control(store: Redis, settings: Settings) -> Control:
    """The control over an empty store."""
    return Control(store, settings)


@pytest.fixture
def service() -> Service:
    """The service that the check asks."""
    return Service()


@pytest.fixture
def app(control: Control, settings: Settings, service: Service) -> Starlette:
    """The admin service with both kinds of keys; a wrong one is answered at once."""
    return admin_app(control, KEYS, settings, service, refusal_delay_s=0)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes clients of an application, with a key or without."""
    async with AsyncExitStack() as stack:

        def client(app: Starlette, key: str | None = None) -> httpx.AsyncClient:
            made = httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app),
                base_url="http://admin",
                headers={} if key is None else {"X-Admin-Key": key},
            )
            stack.push_async_callback(made.aclose)
            return made

        yield client


@pytest.fixture
def writer(app: Starlette, connect: Connect) -> httpx.AsyncClient:
    """A client that may change limits."""
    return connect(app, WRITE_KEY)


@pytest.fixture
def reader(app: Starlette, connect: Connect) -> httpx.AsyncClient:
    """A client that may look."""
    return connect(app, READ_KEY)


@pytest.fixture
def nobody(app: Starlette, connect: Connect) -> httpx.AsyncClient:
    """A client without a key."""
    return connect(app)


@pytest.fixture
async def storeless(
    settings: Settings, service: Service, connect: Connect
) -> AsyncIterator[httpx.AsyncClient]:
    """A client that may change limits, of an admin service whose store is away."""
    async with open_client(NOWHERE) as away:
        yield connect(
            admin_app(Control(away, settings), KEYS, settings, service, refusal_delay_s=0), WRITE_KEY
        )

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
from tests.example_limits import KEY
from tests.replicas import replica

WRITE_KEY = "write-key-0123456"
READ_KEY = "read-key-01234567"
KEYS = AdminKeys((WRITE_KEY,), (READ_KEY,))
NOWHERE = "redis://127.0.0.1:1/0"


@dataclass
class Service:
    """Fake of a running service: it returns `answer`, or raises it, and records its calls."""

    calls: list[tuple[str, Request, bool]] = field(default_factory=list)
    answer: CheckReply | Exception = field(
        default_factory=lambda: CheckReply("denied", 429, {"retry-after": "1"}, "{}", {"tier": "user"}, "OK")
    )

    async def __call__(self, target: str, request: Request, *, dry_run: bool) -> CheckReply:
        """Returns or raises `answer`."""
        self.calls.append((target, request, dry_run))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def run_replica(store: Redis, name: str, number: int, *, started_us: int = 0) -> None:
    """Publishes a replica that was seen just now and runs this revision."""
    seconds, micros = await store.time()
    now_us = seconds * 1_000_000 + micros
    await Replicas(store, KEY).publish(
        replica(name, number=number, transport="fast", started_us=started_us, seen_us=now_us)
    )


class Connect(Protocol):
    """Makes a client of an application. `key` None sends no key."""

    def __call__(self, app: Starlette, key: str | None = None) -> httpx.AsyncClient:
        """Returns the client, which is closed after the test."""


@pytest.fixture
def settings() -> Settings:
    """The settings of the service."""
    return load({}, {})


@pytest.fixture
def control(store: Redis, settings: Settings) -> Control:
    """The control over an empty store."""
    return Control(store, settings)


@pytest.fixture
def service() -> Service:
    """The service that Check requests are sent to."""
    return Service()


@pytest.fixture
def app(control: Control, settings: Settings, service: Service) -> Starlette:
    """The admin service with keys of both roles. It answers a wrong key without delay."""
    return admin_app(control, KEYS, settings, service, refusal_delay_s=0)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes clients of an application."""
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
    """A client with a key that allows changes."""
    return connect(app, WRITE_KEY)


@pytest.fixture
def reader(app: Starlette, connect: Connect) -> httpx.AsyncClient:
    """A client with a read-only key."""
    return connect(app, READ_KEY)


@pytest.fixture
def nobody(app: Starlette, connect: Connect) -> httpx.AsyncClient:
    """A client without a key."""
    return connect(app)


@pytest.fixture
async def storeless(
    settings: Settings, service: Service, connect: Connect
) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a key that allows changes, of an admin service without a reachable store."""
    async with open_client(NOWHERE) as away:
        yield connect(
            admin_app(Control(away, settings), KEYS, settings, service, refusal_delay_s=0), WRITE_KEY
        )

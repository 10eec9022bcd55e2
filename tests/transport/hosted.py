"""What the tests' Envoy loads: the real module over the test's limiter."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from ratelimitd.core.model import OnStoreError
from ratelimitd.transport.fast.application import Module, Service
from ratelimitd.transport.fast.supervisor import LIFELINE
from tests.core.fakes import check_over
from tests.transport.remote import RemoteLimiter
from tests.transport.service import MAX_MESSAGE_BYTES

SOCKET, ON_STORE_ERROR, DRAIN_S = "TEST_LIMITER", "TEST_ON_STORE_ERROR", "TEST_DRAIN_S"
"""The environment variables that say what to serve."""


@asynccontextmanager
async def _opened() -> AsyncIterator[Service]:
    limiter = RemoteLimiter(os.environ[SOCKET])
    structlog.configure(processors=[limiter.log])
    yield Service(
        check_over(limiter, OnStoreError(os.environ[ON_STORE_ERROR])),
        bound_s=60,  # the test's limiter may take as long as it likes
        max_message_bytes=MAX_MESSAGE_BYTES,
        drain_s=float(os.environ[DRAIN_S]),
        lifeline=int(os.environ[LIFELINE]),
    )


application = Module(_opened)

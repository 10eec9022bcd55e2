"""The application that the tests' Envoy loads: the real one, over the test's limiter."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from ratelimitd.core.model import OnStoreError
from ratelimitd.transport.fast.application import HostedApplication, HostedService
from ratelimitd.transport.fast.supervisor import LIFELINE
from tests.transport.remote_limiter import RemoteLimiter
from tests.transport.service_under_test import MAX_MESSAGE_BYTES, methods_over

SOCKET, ON_STORE_ERROR, DRAIN_S = "TEST_LIMITER", "TEST_ON_STORE_ERROR", "TEST_DRAIN_S"
"""Environment variables that configure the service."""


@asynccontextmanager
async def _open_service() -> AsyncIterator[HostedService]:
    limiter = RemoteLimiter(os.environ[SOCKET])
    structlog.configure(processors=[limiter.log])
    yield HostedService(
        methods_over(limiter, OnStoreError(os.environ[ON_STORE_ERROR])),
        bound_s=60,  # the test's limiter may take as long as it likes
        max_message_bytes=MAX_MESSAGE_BYTES,
        drain_s=float(os.environ[DRAIN_S]),
        lifeline=int(os.environ[LIFELINE]),
    )


application = HostedApplication(_open_service)

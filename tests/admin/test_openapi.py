"""The OpenAPI matches the service: schemathesis sends valid and invalid requests and checks each response.

It cannot generate a valid policy; the examples in the OpenAPI lead it to the responses that need one.
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck
from hypothesis import settings as examples
from redis.asyncio import Redis

from ratelimitd.admin.api import API_PATH, admin_api
from ratelimitd.admin.app import admin_app
from ratelimitd.control.control import Control
from ratelimitd.settings import load
from ratelimitd.store.client import open_client
from tests.admin.conftest import KEYS, WRITE_KEY, Service

SETTINGS = load({}, {})

# The schema cannot say that a text must be a valid policy, that If-Match must name the newest one, or that
# exactly one of user, address and key is required. These operations may refuse what the schema allows.
STRICTER_THAN_SCHEMA = [
    "PUT /v1/policy",
    "POST /v1/policy/diff",
    "POST /v1/policy/rollback",
    "POST /v1/policy/restore",
    "GET /v1/buckets",
    "DELETE /v1/buckets",
    "POST /v1/explain",
]

# An invalid query may arrive as a valid one: httpx does not send an unknown parameter whose value is an empty
# list. test_api.py tests that an unknown parameter with a value is refused.
WITH_QUERY = ["GET /v1/revisions", "GET /v1/usage", "GET /v1/top", "GET /v1/buckets", "DELETE /v1/buckets"]


LEFT_OUT = {"positive_data_acceptance": STRICTER_THAN_SCHEMA, "negative_data_rejection": WITH_QUERY}
"""Checks, and the operations that they are switched off for."""


schema = schemathesis.openapi.from_dict(
    admin_api(Control(Redis(), SETTINGS), SETTINGS, Service()).openapi(),
    config=schemathesis.Config.from_dict(
        {
            "checks": {"missing_required_header": {"expected-statuses": [400, 401, 403, 422, 428]}},
            "operations": [
                {
                    "include-name": name,
                    "checks": {check: {"enabled": name not in names} for check, names in LEFT_OUT.items()},
                }
                for name in sorted({*STRICTER_THAN_SCHEMA, *WITH_QUERY})
            ],
        }
    ),
)


@pytest.fixture(scope="module")
def url(store_url: str) -> Iterator[str]:
    """URL of the admin service, in a thread of its own: its store client belongs to one event loop."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        servers: list[uvicorn.Server] = []

        async def serve() -> None:
            async with open_client(store_url) as client:
                await client.flushall()
                app = admin_app(Control(client, SETTINGS), KEYS, SETTINGS, Service(), refusal_delay_s=0)
                servers.append(
                    uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
                )
                await servers[0].serve([listening])

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}{API_PATH}"
        servers[0].should_exit = True
        thread.join()


@pytest.mark.xdist_group("openapi")
@schema.parametrize()
@examples(max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_response_is_declared_in_the_openapi(case: schemathesis.Case[Any], url: str) -> None:
    # The HTTP server refuses a content-length that is not a number before the API sees the request.
    case.headers.pop("content-length", None)
    case.call_and_validate(base_url=url, headers={"X-Admin-Key": WRITE_KEY})

"""The OpenAPI tells the truth: schemathesis makes requests of it, good and bad, and reads every answer.

No text that it makes up is a policy: the examples that the OpenAPI tells take it to the answers behind one.
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

# No schema says that a text must be a policy, If-Match the newest one, and one of user and address given:
# what it allows may be refused here.
UNSAID = [
    "PUT /v1/policy",
    "POST /v1/policy/diff",
    "POST /v1/policy/rollback",
    "GET /v1/buckets",
    "DELETE /v1/buckets",
]

# A spoiled query may be whole again on its way: an unknown parameter with an empty list for a value is not
# sent. With a value it is refused: test_api.py.
WITH_QUERY = ["GET /v1/revisions", "GET /v1/buckets", "DELETE /v1/buckets"]


LEFT_OUT = {"positive_data_acceptance": UNSAID, "negative_data_rejection": WITH_QUERY}
"""Checks, and the operations for which they say nothing."""


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
                for name in sorted({*UNSAID, *WITH_QUERY})
            ],
        }
    ),
)


@pytest.fixture(scope="module")
def url(store_url: str) -> Iterator[str]:
    """The admin service on a real port and in a thread of its own, where its client of the store stays."""
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
def test_every_answer_is_one_that_the_openapi_declares(case: schemathesis.Case[Any], url: str) -> None:
    """No request, however broken, gets a status, a type or a shape that is not written down."""
    case.call_and_validate(base_url=url, headers={"X-Admin-Key": WRITE_KEY})

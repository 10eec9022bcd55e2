"""Requests with large bodies and headers, which Envoy copies into the Check, are charged like all others."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ratelimitd.address import TcpAddress, parse_address
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.demo.parts import envoy_command
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import env_name
from tests.system.processes import line_with, started

MIB = 1_048_576


def front_config(listener: TcpAddress, admin: TcpAddress, service: TcpAddress) -> dict[str, Any]:
    """Returns the shipped configuration, which now sends whole requests and answers /api/ itself.

    Requests to /api/bytes send their body as bytes, others as a string. A failed Check lets the request
    through, so a request that is not charged shows that its Check failed.
    """
    clusters = {"ratelimitd": [service], "backend": [admin]}
    config: dict[str, Any] = yaml.safe_load(envoy_config(listener=listener, admin=admin, clusters=clusters))
    (here,) = config["static_resources"]["listeners"]
    here["per_connection_buffer_limit_bytes"] = 32 * MIB
    (connections,) = here["filter_chains"][0]["filters"]
    manager = connections["typed_config"]
    manager["max_request_headers_kb"] = 8192
    (authz,) = [one["typed_config"] for one in manager["http_filters"] if "ext_authz" in one["name"]]
    del authz["allowed_headers"]
    authz["failure_mode_allow"] = True
    authz["grpc_service"]["timeout"] = "10s"
    buffered = {"max_request_bytes": 20 * MIB, "allow_partial_message": True}
    authz["with_request_body"] = buffered
    (api, *_) = manager["route_config"]["virtual_hosts"][0]["routes"]
    del api["route"]
    api["direct_response"] = {"status": 200}
    as_bytes = json.loads(json.dumps(api))
    as_bytes["match"] = {"prefix": "/api/bytes"}
    settings = as_bytes["typed_per_filter_config"]["envoy.filters.http.ext_authz"]["check_settings"]
    settings["with_request_body"] = buffered | {"pack_as_bytes": True}
    manager["route_config"]["virtual_hosts"][0]["routes"].insert(0, as_bytes)
    return config


@asynccontextmanager
async def front(
    transport: str, store_url: str, folder: Path, *more: str
) -> AsyncIterator[tuple[httpx.AsyncClient, TcpAddress]]:
    """Runs a service and an Envoy, and yields a client and the admin address of that Envoy."""
    env = {env_name("redis_url"): store_url, env_name("store_timeout_ms"): "5000"}
    flags = ("serve", "--transport", transport, "--listen", "127.0.0.1:0", "--leave-s", "0", *more)
    listener, admin = TcpAddress(LOOPBACK, free_port()), TcpAddress(LOOPBACK, free_port())
    async with started(*flags, env=env) as service:
        address = parse_address(json.loads(await line_with(service, '"listening"'))["address"])
        assert isinstance(address, TcpAddress)
        config = folder / "envoy.yaml"
        config.write_text(yaml.safe_dump(front_config(listener, admin, address)))
        async with (
            child("envoy", envoy_command(config), folder / "envoy.log", os.environ) as envoy,
            httpx.AsyncClient(base_url=f"http://{listener}", trust_env=False, timeout=30) as client,
        ):

            async def charged() -> bool:
                try:
                    return "ratelimit" in (await client.get("/api/ready")).headers
                except httpx.TransportError:
                    return False

            await envoy.until(charged)
            yield client, admin


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_the_size_of_a_request_does_not_fail_its_check(
    transport: str, store_url: str, tmp_path: Path
) -> None:
    text, binary = b"a" * (20 * MIB), os.urandom(MIB)
    async with front(transport, store_url, tmp_path) as (client, _):
        for path in ("/api/text", "/api/bytes"):
            for body in (text[:MIB], binary, text):
                reply = await client.post(path, content=body)
                assert "ratelimit" in reply.headers, (path, len(body))
        for size in (100_000, 1_000_000, 7_000_000):
            reply = await client.get("/api/text", headers={"x-large": "h" * size})
            assert "ratelimit" in reply.headers, size
        many = await asyncio.gather(*(client.post("/api/bytes", content=binary) for _ in range(16)))
        assert all("ratelimit" in reply.headers for reply in many)

"""Tests of the client of a running service, with both transports."""

import socket
from collections.abc import Mapping

import pytest

from ratelimitd.address import TcpAddress, UnixAddress
from ratelimitd.core.model import OnStoreError, Request
from ratelimitd.errors import CheckCallError
from ratelimitd.process.loopback import free_port
from ratelimitd.transport.client import CheckReply, check_service
from tests.core.fakes import BrokenLimiter, OracleLimiter
from tests.transport.conftest import Serve, Service
from tests.transport.service_under_test import MAX_MESSAGE_BYTES


def user_request(
    user: str = "user1",
    context: Mapping[str, str] | None = None,
    peer_address: str = "",
    headers: Mapping[str, str] | None = None,
) -> Request:
    """Returns a request of a user."""
    named = {"x-user-id": user} if user else {}
    return Request("GET", "/api/ping", "", named | dict(headers or {}), peer_address, context or {})


async def check(service: Service, request: Request, *, dry_run: bool = False) -> CheckReply:
    """Returns the reply of the service."""
    return await check_service(str(service.address), request, dry_run=dry_run, timeout_s=10)


async def test_an_allowed_reply_has_headers_and_metadata(service: Service) -> None:
    reply = await check(service, user_request())
    assert (reply.outcome, reply.http_status, reply.body, reply.grpc_code) == ("allowed", 200, "", "OK")
    assert reply.headers["ratelimit"] == '"global";r=9;t=1, "user";r=4;t=1, "user_api";r=2;t=1'
    assert reply.metadata == {
        "identity": "header",
        "outcome": "allowed",
        "policy": "flat",
        "remaining": 2,
        "tier": "user_api",
    }
    assert type(reply.metadata["remaining"]) is int


async def test_a_denied_reply_is_what_the_client_would_get(service: Service) -> None:
    for _ in range(3):
        await check(service, user_request())
    reply = await check(service, user_request())
    assert (reply.outcome, reply.http_status, reply.grpc_code) == ("denied", 429, "RESOURCE_EXHAUSTED")
    assert reply.body == '{"error":"rate limit exceeded"}'
    assert (reply.headers["retry-after"], reply.headers["x-ratelimit-tier"]) == ("1", "user_api")
    assert reply.metadata["outcome"] == "denied"


async def test_a_dry_run_takes_no_tokens_and_gets_the_real_decision(service: Service) -> None:
    dry_run = await check(service, user_request(), dry_run=True)
    assert service.limiter.buckets == {}
    assert dry_run.outcome == "allowed"
    assert dry_run.headers["ratelimit"] == '"global";r=10;t=0, "user";r=5;t=0, "user_api";r=3;t=0'
    for _ in range(3):
        await check(service, user_request())
    before = dict(service.limiter.buckets)
    assert (await check(service, user_request(), dry_run=True)).outcome == "denied"
    assert service.limiter.buckets == before


async def test_the_context_of_a_request_reaches_the_service(service: Service) -> None:
    await check(service, user_request(context={"api": "orders"}))
    assert "rate:user:user1:api:orders" in service.limiter.buckets


async def test_the_address_of_a_request_reaches_the_service(service: Service) -> None:
    await check(service, user_request(user="", peer_address="203.0.113.9"))
    assert "rate:user:ip=203.0.113.9" in service.limiter.buckets


async def test_an_identity_that_is_not_utf_8_keeps_its_bytes(service: Service) -> None:
    await check(service, user_request(user="a\udcff"))
    assert "rate:user:a%FF" in service.limiter.buckets


async def test_text_that_is_not_utf_8_is_replaced(service: Service) -> None:
    reply = await check(service, user_request(context={"api": "a\udcff"})._replace(path="/\udcff"))
    assert reply.outcome == "allowed"


async def test_an_error_response_is_reported_as_an_error(serve: Serve) -> None:
    async with serve(BrokenLimiter(), on_store_error=OnStoreError.ENVOY) as listener:
        reply = await check_service(str(listener.address), user_request(), timeout_s=10)
    assert (reply.outcome, reply.http_status, reply.grpc_code) == ("error", 503, "UNAVAILABLE")
    assert reply.metadata["outcome"] == "undecided"


async def test_a_unix_socket_is_a_valid_target(serve: Serve, socket_path: UnixAddress) -> None:
    async with serve(OracleLimiter(), socket_path):
        assert (await check_service(str(socket_path), user_request(), timeout_s=10)).outcome == "allowed"


async def test_a_service_that_listens_on_every_address_is_called_on_loopback(serve: Serve) -> None:
    async with serve(OracleLimiter(), TcpAddress("0.0.0.0", 0)) as listener:
        assert str(listener.address).startswith("0.0.0.0:")
        assert (await check_service(str(listener.address), user_request(), timeout_s=10)).outcome == "allowed"


async def test_proxy_variables_of_the_environment_are_ignored(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    assert (await check(service, user_request())).outcome == "allowed"


async def test_the_error_holds_the_details_of_the_service(service: Service) -> None:
    with pytest.raises(CheckCallError) as error:
        await check(service, user_request(headers={"x": "y" * MAX_MESSAGE_BYTES}))
    assert str(error.value).startswith(f"{service.address} does not answer: RESOURCE_EXHAUSTED, ")


async def test_a_service_that_has_just_started_is_called_at_once(serve: Serve) -> None:
    """Channels that share a subchannel wait a second before they connect again."""
    target = TcpAddress("127.0.0.1", free_port())
    with pytest.raises(CheckCallError) as error:
        await check_service(str(target), user_request())
    assert str(error.value) == f"{target} does not answer: UNAVAILABLE"
    async with serve(OracleLimiter(), target):
        assert (await check_service(str(target), user_request(), timeout_s=10)).outcome == "allowed"


async def test_a_service_that_does_not_answer_in_time_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(
            CheckCallError, match=f"^{target} does not answer: (DEADLINE_EXCEEDED|UNAVAILABLE)$"
        ):
            await check_service(target, user_request(), timeout_s=0.2)


@pytest.mark.parametrize("target", ["localhost", "unix:relative", "127.0.0.1:99999", ""])
async def test_an_invalid_target_is_an_error_that_names_the_valid_forms(target: str) -> None:
    with pytest.raises(
        CheckCallError, match=r"invalid target .*: must be HOST:PORT, \[IPV6\]:PORT or unix:/path$"
    ):
        await check_service(target, user_request())

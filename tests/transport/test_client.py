"""One real Check of our own asking, against both transports."""

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
from tests.transport.service import MAX_MESSAGE_BYTES


def question(
    user: str = "user1",
    context: Mapping[str, str] | None = None,
    peer_address: str = "",
    headers: Mapping[str, str] | None = None,
) -> Request:
    """A request of a user."""
    named = {"x-user-id": user} if user else {}
    return Request("GET", "/api/ping", "", named | dict(headers or {}), peer_address, context or {})


async def ask_service(service: Service, request: Request, *, dry_run: bool = False) -> CheckReply:
    """What the service answers."""
    return await check_service(str(service.address), request, dry_run=dry_run, timeout_s=10)


async def test_an_allowed_request_is_told_with_its_headers_and_metadata(service: Service) -> None:
    """Whole numbers are whole numbers again."""
    asked = await ask_service(service, question())
    assert (asked.outcome, asked.http_status, asked.body, asked.grpc_code) == ("allowed", 200, "", "OK")
    assert asked.headers["ratelimit"] == '"global";r=9;t=1, "user";r=4;t=1, "user_api";r=2;t=1'
    assert asked.metadata == {
        "identity": "header",
        "outcome": "allowed",
        "policy": "flat",
        "remaining": 2,
        "tier": "user_api",
    }
    assert type(asked.metadata["remaining"]) is int


async def test_a_denied_request_is_told_as_the_client_would_see_it(service: Service) -> None:
    """Status, body and headers."""
    for _ in range(3):
        await ask_service(service, question())
    asked = await ask_service(service, question())
    assert (asked.outcome, asked.http_status, asked.grpc_code) == ("denied", 429, "RESOURCE_EXHAUSTED")
    assert asked.body == '{"error":"rate limit exceeded"}'
    assert (asked.headers["retry-after"], asked.headers["x-ratelimit-tier"]) == ("1", "user_api")
    assert asked.metadata["outcome"] == "denied"


async def test_a_dry_run_takes_nothing_and_is_decided_as_a_real_one(service: Service) -> None:
    """The buckets are as they were, and so they are told."""
    looked = await ask_service(service, question(), dry_run=True)
    assert service.limiter.buckets == {}
    assert looked.outcome == "allowed"
    assert looked.headers["ratelimit"] == '"global";r=10;t=0, "user";r=5;t=0, "user_api";r=3;t=0'
    for _ in range(3):
        await ask_service(service, question())
    before = dict(service.limiter.buckets)
    assert (await ask_service(service, question(), dry_run=True)).outcome == "denied"
    assert service.limiter.buckets == before


async def test_the_context_travels(service: Service) -> None:
    """It names the bucket of the API."""
    await ask_service(service, question(context={"api": "orders"}))
    assert "rate:user:user1:api:orders" in service.limiter.buckets


async def test_the_address_travels(service: Service) -> None:
    """Where no header identifies, it is charged."""
    await ask_service(service, question(user="", peer_address="203.0.113.9"))
    assert "rate:user:ip=203.0.113.9" in service.limiter.buckets


async def test_bytes_that_are_no_utf_8_keep_their_identity(service: Service) -> None:
    """As from an Envoy with encode_raw_headers."""
    await ask_service(service, question(user="a\udcff"))
    assert "rate:user:a%FF" in service.limiter.buckets


async def test_text_that_no_message_can_hold_is_no_error(service: Service) -> None:
    """Envoy replaces such characters as well."""
    asked = await ask_service(service, question(context={"api": "a\udcff"})._replace(path="/\udcff"))
    assert asked.outcome == "allowed"


async def test_an_answer_that_leaves_it_to_envoy_is_an_error(serve: Serve) -> None:
    """The store is away, and failure_mode_allow decides."""
    async with serve(BrokenLimiter(), on_store_error=OnStoreError.ENVOY) as listener:
        asked = await check_service(str(listener.address), question(), timeout_s=10)
    assert (asked.outcome, asked.http_status, asked.grpc_code) == ("error", 503, "UNAVAILABLE")
    assert asked.metadata["outcome"] == "undecided"


async def test_a_unix_socket_can_be_asked(serve: Serve, socket_path: UnixAddress) -> None:
    """By the name that the setting gives it."""
    async with serve(OracleLimiter(), socket_path):
        assert (await check_service(str(socket_path), question(), timeout_s=10)).outcome == "allowed"


async def test_where_a_service_listens_everywhere_loopback_is_asked(serve: Serve) -> None:
    """The setting `listen` can be asked as it is."""
    async with serve(OracleLimiter(), TcpAddress("0.0.0.0", 0)) as listener:
        assert str(listener.address).startswith("0.0.0.0:")
        assert (await check_service(str(listener.address), question(), timeout_s=10)).outcome == "allowed"


async def test_a_proxy_of_the_environment_is_not_asked(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows nothing of this machine's services."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    assert (await ask_service(service, question())).outcome == "allowed"


async def test_a_refusal_of_the_service_is_told_in_its_words(service: Service) -> None:
    """A question that is longer than it reads."""
    with pytest.raises(CheckCallError) as error:
        await ask_service(service, question(headers={"x": "y" * MAX_MESSAGE_BYTES}))
    assert str(error.value).startswith(f"{service.address} does not answer: RESOURCE_EXHAUSTED, ")


async def test_nobody_is_a_sentence_and_somebody_who_comes_is_asked_at_once(serve: Serve) -> None:
    """A failure is not remembered: gRPC waits a second before it connects again, and a person asks again."""
    target = TcpAddress("127.0.0.1", free_port())
    with pytest.raises(CheckCallError) as error:
        await check_service(str(target), question())
    assert str(error.value) == f"{target} does not answer: UNAVAILABLE"
    async with serve(OracleLimiter(), target):
        assert (await check_service(str(target), question(), timeout_s=10)).outcome == "allowed"


async def test_who_does_not_answer_in_time_is_a_sentence() -> None:
    """It can be connected to, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(
            CheckCallError, match=f"^{target} does not answer: (DEADLINE_EXCEEDED|UNAVAILABLE)$"
        ):
            await check_service(target, question(), timeout_s=0.2)


@pytest.mark.parametrize("target", ["localhost", "unix:relative", "127.0.0.1:99999", ""])
async def test_what_is_no_target_is_a_sentence(target: str) -> None:
    """It says what would be one."""
    with pytest.raises(
        CheckCallError, match=r"invalid target .*: must be HOST:PORT, \[IPV6\]:PORT or unix:/path$"
    ):
        await check_service(target, question())

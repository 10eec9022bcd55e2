"""Behaviour that all transports share, tested with clients that share no code with them."""

import asyncio
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy_data_plane.envoy.config.core.v3 import Address, HeaderMap, HeaderValue, SocketAddress
from envoy_data_plane.envoy.service.auth.v3 import (
    AttributeContext,
    AttributeContextHttpRequest,
    AttributeContextPeer,
    AttributeContextRequest,
    AuthorizationAsyncStub,
    CheckRequest,
    CheckResponse,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpclib.client import Channel
from structlog.testing import capture_logs

from ratelimitd.address import TcpAddress, UnixAddress, parse_address
from ratelimitd.bounded_log import LINES_PER_MINUTE
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.core.model import OnStoreError, Outcome, TakeRequest
from ratelimitd.transport.fast.framing import frame
from tests.core.fakes import BrokenLimiter, OracleLimiter
from tests.eventually import eventually
from tests.transport.conftest import Serve, Service, TlsAddress, channel_to
from tests.transport.http2 import exchange
from tests.transport.service_under_test import MAX_MESSAGE_BYTES

CHECK = "/envoy.service.auth.v3.Authorization/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
SERVICES = ("", "envoy.service.auth.v3.Authorization")


def check_request(user: str = "user1", api: str = "/api/*", **more: Any) -> CheckRequest:
    """Returns a request as Envoy sends it, with more fields of its HTTP request."""
    http = AttributeContextHttpRequest(method="GET", path="/api/ping", headers={"x-user-id": user}, **more)
    peer = AttributeContextPeer(address=Address(socket_address=SocketAddress(address="203.0.113.9")))
    return CheckRequest(
        attributes=AttributeContext(
            source=peer, request=AttributeContextRequest(http=http), context_extensions={"api": api}
        )
    )


def grpclib_channel(address: TcpAddress) -> Channel:
    """Returns a channel of the other library, with TLS for a TlsAddress."""
    if not isinstance(address, TlsAddress):
        return Channel(address.host, address.port)
    files = address.tls.files
    context = ssl.create_default_context(cafile=files.ca)
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])
    return Channel(address.host, address.port, ssl=context)


async def ask(address: TcpAddress, *requests: CheckRequest) -> list[CheckResponse]:
    """Sends the requests one after the other over one connection, and returns the responses."""
    async with grpclib_channel(address) as channel:
        stub = AuthorizationAsyncStub(channel)
        return [await stub.check(request) for request in requests]


def method_of(
    channel: grpc.aio.Channel, method: str = CHECK
) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]":
    """Returns a method that takes and returns bytes."""
    return channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)


async def call_raw(address: TcpAddress | UnixAddress, payload: bytes, method: str = CHECK) -> bytes:
    """Returns the response to these bytes."""
    async with channel_to(address) as channel:
        return await method_of(channel, method)(payload, timeout=10)


def code_of(answer: CheckResponse) -> int:
    """Returns the code of a response."""
    assert answer.status is not None
    return answer.status.code


async def refusal_of(
    address: TcpAddress | UnixAddress, payload: bytes, method: str = CHECK
) -> tuple[grpc.StatusCode, str]:
    """Returns the status and the details of the error response to these bytes."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call_raw(address, payload, method)
    return error.value.code(), error.value.details() or ""


async def test_three_pass_and_the_fourth_is_denied(service: Service) -> None:
    answers = await ask(service.address, *[check_request()] * 4)
    assert [code_of(answer) for answer in answers] == [0, 0, 0, 8]
    allowed, denied = answers[0].ok_response, answers[3].denied_response
    assert allowed is not None
    assert denied is not None
    assert denied.status is not None
    added = {o.header.key: o.header.value for o in allowed.response_headers_to_add if o.header}
    assert added["ratelimit"] == '"global";r=9;t=1, "user";r=4;t=1, "user_api";r=2;t=1'
    headers = {o.header.key: o.header.value for o in denied.headers if o.header}
    assert (denied.status.code, denied.body) == (429, '{"error":"rate limit exceeded"}')
    assert headers["x-ratelimit-tier"] == "user_api"
    assert headers["x-envoy-ratelimited"] == "true"
    assert headers["content-type"] == "application/json"


async def test_an_id_in_raw_headers_keeps_its_bytes(service: Service) -> None:
    request = check_request()
    assert request.attributes is not None
    assert request.attributes.request is not None
    http = AttributeContextHttpRequest(
        method="GET", header_map=HeaderMap(headers=[HeaderValue(key="x-user-id", raw_value=b"\xff")])
    )
    request.attributes.request.http = http
    await ask(service.address, request)
    assert "rate:user:%FF" in service.limiter.buckets


async def test_each_of_many_concurrent_calls_gets_its_answer(service: Service) -> None:
    async with grpclib_channel(service.address) as channel:
        stub = AuthorizationAsyncStub(channel)
        answers = await asyncio.gather(*(stub.check(check_request()) for _ in range(100)))
    assert sum(answer.ok_response is not None for answer in answers) == 3


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"\x0a\x05abc", b"\x0a\x04\x22\x02\x12\x05"])
async def test_a_malformed_message_is_an_invalid_argument(service: Service, payload: bytes) -> None:
    assert await refusal_of(service.address, payload) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "the message is not an envoy.service.auth.v3.CheckRequest",
    )


async def test_a_request_without_http_is_an_invalid_argument(service: Service) -> None:
    code, details = await refusal_of(service.address, b"")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "attributes.request.http is missing" in details
    assert service.limiter.buckets == {}


async def test_a_message_above_the_maximum_is_refused(service: Service) -> None:
    fitting = bytes(check_request("x" * (MAX_MESSAGE_BYTES - 500)))
    assert await call_raw(service.address, fitting)
    code, details = await refusal_of(service.address, bytes(check_request("x" * MAX_MESSAGE_BYTES)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"more than {MAX_MESSAGE_BYTES} bytes" in details


@pytest.mark.parametrize("body", [{"body": "b" * 5_000_000}, {"raw_body": b"\xff" * 5_000_000}])
async def test_a_body_is_not_part_of_the_maximum(service: Service, body: dict[str, Any]) -> None:
    request = bytes(check_request(**body))
    for _ in range(2):
        response = CheckResponse.parse(await call_raw(service.address, request))
        assert response.ok_response is not None
    code, _ = await refusal_of(service.address, request[:-1] + b"\xff" * 6)
    assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", ["/envoy.service.auth.v3.Authorization/Nope", "/nope/Check"])
async def test_an_unknown_method_is_unimplemented(service: Service, method: str) -> None:
    code, _ = await refusal_of(service.address, b"", method)
    assert code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("setting", "code", "kind"),
    [
        (OnStoreError.DENY, 14, "denied_response"),
        (OnStoreError.ENVOY, 14, "error_response"),
        (OnStoreError.ALLOW, 0, "ok_response"),
    ],
)
async def test_the_answer_during_an_outage_of_the_store_follows_the_setting(
    serve: Serve, setting: OnStoreError, code: int, kind: str
) -> None:
    async with serve(BrokenLimiter(), on_store_error=setting) as listener:
        answer = CheckResponse.parse(await call_raw(listener.address, bytes(check_request())))
    assert code_of(answer) == code
    assert getattr(answer, kind) is not None


class DefectiveLimiter:
    """Raises an unexpected error."""

    async def take(self, request: TakeRequest) -> Outcome:
        raise ZeroDivisionError(f"secret detail, {len(request.keys)}")


async def test_an_exception_is_logged_and_the_caller_gets_no_details(serve: Serve) -> None:
    with capture_logs() as lines:
        async with serve(DefectiveLimiter()) as listener:
            refusal = await refusal_of(listener.address, bytes(check_request()))
    assert refusal == (grpc.StatusCode.INTERNAL, "internal error")
    assert [line["event"] for line in lines] == ["call_failed"]


async def test_exceptions_at_the_rate_of_requests_are_few_lines(serve: Serve) -> None:
    with capture_logs() as lines:
        async with serve(DefectiveLimiter()) as listener:
            for _ in range(2 * LINES_PER_MINUTE):
                await refusal_of(listener.address, bytes(check_request()))
    assert [line["event"] for line in lines] == ["call_failed"] * LINES_PER_MINUTE


async def test_the_traceparent_of_a_call_is_part_of_its_request(serve: Serve) -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with capture_logs() as lines:
        async with (
            serve(OracleLimiter()) as listener,
            channel_to(listener.address) as channel,
        ):
            call = method_of(channel)
            payload = bytes(check_request())
            await call(payload, metadata=[("traceparent", traceparent)], timeout=10)
            await call(payload, timeout=10)
    assert [line["event"] for line in lines] == [traceparent]


@pytest.mark.parametrize("name", SERVICES)
async def test_health_is_serving_for_the_process_and_the_service(service: Service, name: str) -> None:
    request = health_pb2.HealthCheckRequest(service=name)
    async with channel_to(service.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(request)
        assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


async def test_reflection_lists_the_services_and_describes_their_types(service: Service) -> None:
    async with channel_to(service.address) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {found.name for found in (await call.read()).list_services_response.service}
        await call.write(
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="envoy.service.auth.v3.CheckRequest"
            )
        )
        found = (await call.read()).file_descriptor_response.file_descriptor_proto
        await call.done_writing()
    assert {"envoy.service.auth.v3.Authorization", "grpc.health.v1.Health"} <= listed
    assert found


@pytest.mark.parametrize(
    ("listen", "reachable"),
    [
        ("[::]", ["127.0.0.1", "::1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("[::1]", ["::1"]),
        ("localhost", ["localhost"]),
        (socket.gethostname(), [socket.gethostname()]),
    ],
)
async def test_it_listens_on_each_address_that_the_setting_names(
    serve: Serve, listen: str, reachable: list[str]
) -> None:
    address = parse_address(f"{listen}:0")
    async with serve(OracleLimiter(), address) as listener:
        assert isinstance(listener.address, TcpAddress)
        assert str(listener.address) == f"{listen}:{listener.address.port}"
        for host in reachable:
            answer = await call_raw(TcpAddress(host, listener.address.port), bytes(check_request()))
            assert CheckResponse.parse(answer).ok_response is not None


@pytest.mark.parametrize("listen", ["0.0.0.0", "127.0.0.1"])
async def test_an_ipv4_address_accepts_no_ipv6(serve: Serve, listen: str) -> None:
    async with serve(OracleLimiter(), TcpAddress(listen, 0)) as listener:
        assert isinstance(listener.address, TcpAddress)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("::1", listener.address.port)


async def test_it_listens_on_a_unix_socket(serve: Serve, socket_path: UnixAddress) -> None:
    async with serve(OracleLimiter(), socket_path) as listener:
        answer = CheckResponse.parse(await call_raw(listener.address, bytes(check_request())))
    assert answer.ok_response is not None


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777])
async def test_a_unix_socket_gets_the_mode_that_the_setting_names(
    serve: Serve, socket_path: UnixAddress, mode: int
) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(socket_path.path)
    async with serve(OracleLimiter(), UnixAddress(socket_path.path, mode)):
        assert stat.S_IMODE(Path(socket_path.path).stat().st_mode) == mode


class HeldLimiter(OracleLimiter):
    """Decides once the test sets `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()
        self.release = asyncio.Event()

    async def take(self, request: TakeRequest) -> Outcome:
        self.reached.set()
        await self.release.wait()
        return await super().take(request)


async def _refuses(address: TcpAddress | UnixAddress) -> bool:
    async with channel_to(address) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError:
            return True
    return False


async def test_a_call_in_flight_finishes_while_the_service_stops(serve: Serve) -> None:
    limiter = HeldLimiter()
    serving = serve(limiter)
    address = (await serving.__aenter__()).address
    async with channel_to(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICES[1]))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call = method_of(channel)(bytes(check_request()))
        await limiter.reached.wait()
        stopping = asyncio.create_task(serving.__aexit__(None, None, None))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING

        async def closed() -> bool:
            return await _refuses(address)

        await eventually(closed, "no new call is taken")
        limiter.release.set()
        assert CheckResponse.parse(await call).ok_response is not None
        watch.cancel()
    await stopping


async def test_a_service_that_leaves_still_answers_calls(serve: Serve) -> None:
    async with serve(OracleLimiter()) as listener:
        listener.leave()
        async with channel_to(listener.address) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        answer = CheckResponse.parse(await call_raw(listener.address, bytes(check_request())))
    assert answer.ok_response is not None


async def test_a_call_that_never_ends_is_cut_off_after_the_drain(serve: Serve) -> None:
    limiter = HeldLimiter()
    serving = serve(limiter, drain_s=0.1)
    address = (await serving.__aenter__()).address
    async with channel_to(address) as channel:
        call = method_of(channel)(bytes(check_request()))
        await limiter.reached.wait()
        await serving.__aexit__(None, None, None)
        with pytest.raises(grpc.aio.AioRpcError):
            await call


@pytest.mark.parametrize("chunks", [[], [b""]])
@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_health_without_a_message_is_an_invalid_argument(
    service: Service, method: str, chunks: list[bytes]
) -> None:
    with capture_logs() as lines:
        reply = await exchange(service.address, chunks, path=f"/grpc.health.v1.Health/{method}")
    assert (reply.status, lines) == (GrpcCode.INVALID_ARGUMENT, [])


@pytest.mark.parametrize("path", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", REFLECTION])
async def test_a_malformed_message_of_a_standard_service_is_an_invalid_argument(
    service: Service, path: str
) -> None:
    with capture_logs() as lines:
        reply = await exchange(service.address, [frame(b"\xff\xff\xff")], path=path)
    assert (reply.status, lines) == (GrpcCode.INVALID_ARGUMENT, [])


async def test_a_caller_that_leaves_early_is_not_logged(serve: Serve) -> None:
    limiter = HeldLimiter()
    with capture_logs() as lines:
        async with serve(limiter) as listener, channel_to(listener.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            call = method_of(channel)(bytes(check_request()))
            await limiter.reached.wait()
            call.cancel()
            watch.cancel()
            limiter.release.set()
            await _until_answered(channel)
    assert lines == []


async def _until_answered(channel: grpc.aio.Channel) -> None:
    """Returns after another call, so that the service has answered the calls before it."""
    await method_of(channel)(bytes(check_request()), timeout=10)

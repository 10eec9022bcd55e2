"""Tests of the HTTP server of the metrics, on the event loops of both transports."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from threading import Event

import h11
import pytest
import structlog

from ratelimitd.address import TcpAddress
from ratelimitd.telemetry import http_connections, metrics_server
from ratelimitd.telemetry.http_connections import MAX_CONNECTIONS, MAX_HEAD_BYTES, MAX_IGNORED_BYTES
from ratelimitd.telemetry.metrics_server import MetricsServer, serve_metrics
from tests.both_loops import on_both_loops

TEXT = b"# TYPE up gauge\nup 1\n"


@dataclass(frozen=True)
class Reply:
    """A response: its status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Served:
    """A running server, its port, and the connections to it."""

    server: MetricsServer
    port: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Opens a connection, which is closed after the server."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def send(self, data: bytes, *, method: str = "GET", end: bool = False) -> Reply:
        """Sends bytes, half-closes the connection if `end`, and returns the response up to its end."""
        reader, writer = await self.connect()
        writer.write(data)
        if end:
            writer.write_eof()
        return parsed(await reader.read(), method)

    async def get(self, path: str, *headers: str, method: str = "GET") -> Reply:
        """Sends a request."""
        return await self.send(request(path, *headers, method=method), method=method)


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    """Returns the head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "\r\n"]).encode()


def parsed(received: bytes, method: str) -> Reply:
    """Returns the response in these bytes, which must be one response and the end of the connection."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "x"), ("connection", "close")]))
    client.send(h11.EndOfMessage())
    client.receive_data(received)
    client.receive_data(b"")
    head = client.next_event()
    assert isinstance(head, h11.Response), received
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    headers = {name.decode(): value.decode() for name, value in head.headers}
    assert headers["connection"] == "close"
    return Reply(head.status_code, headers, body)


@asynccontextmanager
async def served(exposition: Callable[[], bytes] = lambda: TEXT) -> AsyncIterator[Served]:
    """Runs a server on a free port. No task of it is left afterwards."""
    before = asyncio.all_tasks()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    async with serve_metrics(TcpAddress("127.0.0.1", 0), [listening], exposition) as server:
        up = Served(server, port)
        yield up
    assert asyncio.all_tasks() <= before
    for writer in up.writers:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def until_cut_off(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Sends data again and again until the server has closed the connection."""
    with suppress(OSError):
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.001)


@on_both_loops
async def test_metrics_and_health_are_answered() -> None:
    async with served() as up:
        metrics = await up.get("/metrics")
        assert (metrics.status, metrics.body) == (200, TEXT)
        assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        health = await up.get("/healthz")
        assert (health.status, health.body) == (200, b'{"status":"ok"}')
        assert health.headers["content-type"] == "application/json"


@on_both_loops
async def test_health_is_503_once_the_service_leaves_and_metrics_are_still_answered() -> None:
    async with served() as up:
        up.server.leave()
        health = await up.get("/healthz")
        assert (health.status, health.body) == (503, b'{"status":"leaving"}')
        assert (await up.get("/metrics")).status == 200


@pytest.mark.parametrize("target", ["/metrics?x=1", "http://replica:9091/metrics", "/metrics"])
@on_both_loops
async def test_a_target_may_have_a_query_or_be_a_url(target: str) -> None:
    async with served() as up:
        assert (await up.get(target)).body == TEXT


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/METRICS", "//metrics", "*", "/%6detrics", "http://[/metrics"]
)
@on_both_loops
async def test_an_unknown_path_is_404_with_the_known_ones(path: str) -> None:
    async with served() as up:
        reply = await up.get(path)
        assert (reply.status, reply.body) == (404, b"unknown path; expected /metrics or /healthz\n")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/nothing"])
@on_both_loops
async def test_head_has_the_headers_of_get_and_no_body(path: str) -> None:
    async with served() as up:
        get, head = await up.get(path), await up.get(path, method="HEAD")
        assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "X"])
@on_both_loops
async def test_another_method_is_405_with_the_allowed_ones(method: str) -> None:
    async with served() as up:
        reply = await up.get("/metrics", "Content-Length: 3", method=method)
        assert (reply.status, reply.body) == (405, b"use GET or HEAD\n")
        assert reply.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip; q=0.000", False), ("br", False)],
)
@on_both_loops
async def test_metrics_are_compressed_for_clients_that_accept_it(accepted: str, *, compressed: bool) -> None:
    async with served() as up:
        reply = await up.get("/metrics", f"Accept-Encoding: {accepted}")
        assert reply.headers.get("content-encoding") == ("gzip" if compressed else None)
        assert (gzip.decompress(reply.body) if compressed else reply.body) == TEXT
        assert reply.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"\0" * 100 + b"\r\n\r\n",
    ],
)
@on_both_loops
async def test_what_is_not_a_request_is_400(data: bytes) -> None:
    async with served() as up:
        reply = await up.send(data)
        assert (reply.status, reply.body) == (400, b"not a valid HTTP/1.1 request\n")


@on_both_loops
async def test_a_client_of_http_2_gets_an_error_and_the_end_of_the_connection() -> None:
    async with served() as up:
        assert (await up.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")).status == 404


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b""])
@on_both_loops
async def test_a_head_that_is_too_large_is_431(start: bytes) -> None:
    async with served() as up:
        reply = await up.send(start + b"a" * (MAX_HEAD_BYTES + 1))
        assert reply.status == 431
        assert b"at most 16384 bytes" in reply.body


@on_both_loops
async def test_a_client_that_has_closed_its_side_gets_its_response() -> None:
    async with served() as up:
        assert (await up.send(request("/metrics"), end=True)).body == TEXT


@on_both_loops
async def test_a_request_may_arrive_byte_by_byte() -> None:
    async with served() as up:
        reader, writer = await up.connect()
        for byte in request("/healthz"):
            writer.write(bytes([byte]))
            await writer.drain()
        assert b'{"status":"ok"}' in await reader.read()


@on_both_loops
async def test_a_client_that_ends_before_its_request_is_complete_gets_nothing() -> None:
    async with served() as up:
        reader, writer = await up.connect()
        writer.write(b"GET /metrics HT")
        writer.write_eof()
        assert await reader.read() == b""


@on_both_loops
async def test_a_body_is_ignored_and_its_sender_gets_the_response() -> None:
    async with served() as up:
        body = b"x" * (MAX_IGNORED_BYTES // 2)
        head = request("/metrics", f"Content-Length: {len(body)}", method="POST")
        assert (await up.send(head + body)).status == 405


@on_both_loops
async def test_a_client_that_never_stops_sending_is_cut_off() -> None:
    async with served() as up:
        _, writer = await up.connect()
        writer.write(request("/metrics", "Transfer-Encoding: chunked", method="POST"))
        await until_cut_off(writer, b"x" * 65_536)


@on_both_loops
async def test_connections_that_stay_open_do_not_keep_out_a_request() -> None:
    async with served() as up:
        idle = []
        for _ in range(MAX_CONNECTIONS * 3):
            reader, writer = await up.connect()
            writer.write(b"GET /metrics HTTP/1.1\r\n")
            idle.append(reader)
        assert (await up.get("/healthz")).status == 200
        for reader in idle[: MAX_CONNECTIONS * 2]:
            with suppress(ConnectionError):
                assert await reader.read() == b""


@on_both_loops
async def test_a_connection_ends_after_its_lifetime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connections, "LIFETIME_S", 0.01)
    async with served() as up:
        reader, _ = await up.connect()
        with suppress(ConnectionError):
            assert await reader.read() == b""


@on_both_loops
async def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(lambda: b"x" * 50_000_000) as up:
        monkeypatch.setattr(http_connections, "LIFETIME_S", 0.2)
        _, writer = await up.connect()
        writer.write(request("/metrics"))
        writer.transport.pause_reading()  # type: ignore[attr-defined] # it is a transport that reads
        await until_cut_off(writer, b"x")


@on_both_loops
async def test_requests_that_wait_share_a_rendering_that_began_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_server, "PAUSE", 0)
    decisions, renderings, began, go_on = 1, 0, Event(), Event()

    def exposition() -> bytes:
        nonlocal renderings
        renderings += 1
        counted = decisions
        began.set()
        assert go_on.wait(10)
        return f"decisions {counted}\n".encode()

    async with served(exposition) as up:
        first = asyncio.create_task(up.get("/metrics"))
        await asyncio.to_thread(began.wait)
        decisions = 2
        later = [asyncio.create_task(up.get("/metrics")) for _ in range(5)]
        assert (await up.get("/healthz")).status == 200  # a rendering does not hold up the event loop
        go_on.set()
        assert (await first).body == b"decisions 1\n"
        assert {reply.body for reply in await asyncio.gather(*later)} == {b"decisions 2\n"}
        assert renderings <= 3


@on_both_loops
async def test_a_client_that_leaves_does_not_end_the_rendering_of_others() -> None:
    began, go_on = Event(), Event()

    def exposition() -> bytes:
        began.set()
        assert go_on.wait(10)
        return TEXT

    async with served(exposition) as up:
        _, leaver = await up.connect()
        leaver.write(request("/metrics"))
        await asyncio.to_thread(began.wait)
        leaver.transport.abort()
        go_on.set()
        assert (await up.get("/metrics")).body == TEXT


@on_both_loops
async def test_the_end_does_not_wait_for_clients_and_renderings() -> None:
    began, go_on = Event(), Event()

    def exposition() -> bytes:
        began.set()
        go_on.wait(10)
        return TEXT

    async with served(exposition) as up:
        _, waits = await up.connect()
        waits.write(request("/metrics"))
        await up.connect()
        await asyncio.to_thread(began.wait)
    go_on.set()
    with pytest.raises(OSError):  # noqa: PT011 - refused
        await up.connect()


@on_both_loops
async def test_a_defect_is_500_and_a_line_in_the_log() -> None:
    def exposition() -> bytes:
        raise ValueError("defect")

    with structlog.testing.capture_logs() as logs:
        async with served(exposition) as up:
            for _ in range(2):
                reply = await up.get("/metrics")
                assert reply.status == 500
                assert reply.body == b"internal error; see metrics_failed in the log of ratelimitd\n"
    assert [line["event"] for line in logs] == ["metrics_listening", "metrics_failed", "metrics_failed"]


@on_both_loops
async def test_without_sockets_nothing_is_served() -> None:
    with structlog.testing.capture_logs() as logs:
        async with serve_metrics(None, [], lambda: TEXT):
            pass
    assert logs == []

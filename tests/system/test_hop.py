"""Compares the two ways in which an Envoy asks the service inside it: over HTTP and over gRPC."""

import asyncio
import json
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from ratelimitd.address import TcpAddress
from tests.eventually import eventually
from tests.example_limits import KEY
from tests.redis_server import redis_server
from tests.system.changed_front import (
    OK,
    Backend,
    Config,
    changed_front,
    connection_manager,
    http_filters,
    running_backend,
    virtual_host,
)
from tests.system.hop_requests import ALL, AWAY, OVER_HTTP2, POLICY, PROBE, request_of
from tests.system.test_unusual_requests import request
from tests.transport.http2 import exchange

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hop")]

HOPS = ("grpc", "http")
EXT_AUTHZ = "envoy.filters.http.ext_authz"
TIMEOUT_MS = 1500
"""How long a decision waits for the store: long, because a busy machine is slow."""

DIFFERENT_NUMBERS = re.compile(
    r"(?<=;t=)[0-9]+|(?<=retry-after: )[0-9]+|(?<=date: ).*|(?<=global\";r=)[0-9]+"
)
DIFFERENT_LINES = ("x-request-id:", "x-envoy-upstream-service-time:")
UNAVAILABLE = '{"error":"rate limiter unavailable"}'
UNFINISHED = b"HTTP/1.1 101"
"""A response that never ends: the backend waits for more data of its client."""


class Form(NamedTuple):
    """An Envoy that asks the service inside it in one of the two ways."""

    http: httpx.AsyncClient
    backend: Backend
    store: Redis
    log: Path

    @property
    def address(self) -> TcpAddress:
        """The address of the Envoy."""
        return TcpAddress(self.http.base_url.host, self.http.base_url.port or 0)

    async def results(self, data: bytes, times: int = 3) -> tuple[list[str], list[list[str]]]:
        """Sends a request several times, by default once more than its limit.

        Returns the responses, and the requests that reached the backend.
        """
        self.backend.heads.clear()
        responses = [without_times(await self.response(data)) for _ in range(times)]
        return responses, [_same(head) for head in self.backend.heads]

    async def response(self, data: bytes) -> bytes:
        """Sends a request and returns its response."""
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port)
        try:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 100"):
                head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: ([0-9]+)", head)
            if length is None or data.startswith(b"HEAD"):
                return head
            return head + await reader.readexactly(int(length[1]))
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def over_http2(self, user: str, fields: dict[str, Any]) -> list[object]:
        """Sends a request three times over HTTP/2, or once if Envoy closes the connection.

        Returns what its client gets.
        """
        sent = {"method": "GET", "content_type": "text/plain", "x_user_id": user} | fields
        results: list[object] = []
        for _ in range(3):
            try:
                reply = await exchange(self.address, [], **sent)
            except ConnectionError:
                return ["connection closed"]
            lines = [f"{name}: {value}" for name, value in reply.headers.items()]
            results.append(
                (without_times("\n".join(lines).encode()), reply.body, reply.trailers, reply.reset)
            )
        return results

    def log_lines(self) -> list[dict[str, Any]]:
        """Returns the lines of the access log without times and ports."""
        lines = [
            json.loads(line)
            for line in self.log.read_text().splitlines()
            if '"flags":' in line and PROBE not in line
        ]
        return [
            {key: value for key, value in line.items() if key not in {"time", "duration_ms", "upstream"}}
            for line in lines
        ]


def _same(head: str) -> list[str]:
    return [line for line in head.splitlines() if not line.startswith(DIFFERENT_LINES)]


def without_times(response: bytes) -> str:
    """Returns a response without what differs from one to the next."""
    head, _, body = response.decode("latin-1").partition("\r\n\r\n")
    return "\n".join([DIFFERENT_NUMBERS.sub("", line) for line in _same(head)] + [body])


def with_routes(config: Config) -> None:
    """Adds routes with another context, without any, and without a check."""
    service = http_filters(config)[EXT_AUTHZ]["grpc_service"]
    service["timeout"] = service["retry_policy"]["retry_back_off"]["max_interval"] = "10s"
    host = virtual_host(config)
    (limited, *others) = host["routes"]
    own = context(config, api="/own", more='a\u00e4"%')
    disabled = {EXT_AUTHZ: {"@type": own[EXT_AUTHZ]["@type"], "disabled": True}}
    direct = {"status": 200, "body": {"inline_string": "direct"}}
    host["routes"] = [
        {**limited, "match": {"prefix": "/api/own/"}, "typed_per_filter_config": own},
        {"match": {"prefix": "/plain"}, "route": {"cluster": "backend"}},
        {"match": {"prefix": "/free"}, "route": {"cluster": "backend"}, "typed_per_filter_config": disabled},
        {"match": {"prefix": "/direct"}, "direct_response": direct},
        limited,
        *others,
    ]


def context(config: Config, **extensions: str) -> dict[str, Any]:
    """Returns the settings of a route with these context extensions."""
    per_route = virtual_host(config)["routes"][0]["typed_per_filter_config"][EXT_AUTHZ]
    return {EXT_AUTHZ: per_route | {"check_settings": {"context_extensions": extensions}}}


def with_more_context(config: Config) -> None:
    """Adds contexts of the virtual host and of the table of routes, too."""
    with_routes(config)
    table, host = connection_manager(config)["route_config"], virtual_host(config)
    table["typed_per_filter_config"] = context(config, api="/table", more="1")
    host["typed_per_filter_config"] = context(config, api="/host")


def with_all_headers(config: Config) -> None:
    """Sends all headers, and lets requests go on that Envoy gets no decision for."""
    with_routes(config)
    ext_authz = http_filters(config)[EXT_AUTHZ]
    del ext_authz["allowed_headers"]
    ext_authz |= {"failure_mode_allow": True, "failure_mode_allow_header_add": True}


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[(with_more_context, 1), (with_all_headers, 2)],
    ids=["more context", "all headers, failure_mode_allow, two workers"],
)
async def forms(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Form]]:
    """Runs both forms, each with a store and a backend of its own."""
    change, workers = request.param
    async with AsyncExitStack() as stack:
        starts = (_start(stack, hop, change, workers, tmp_path_factory.mktemp(hop)) for hop in HOPS)
        yield list(await asyncio.gather(*starts))


async def _start(
    stack: AsyncExitStack, hop: str, change: Callable[[Config], None], workers: int, folder: Path
) -> Form:
    address, store = await stack.enter_async_context(redis_server())
    await store.set(KEY, POLICY)
    backend = await stack.enter_async_context(running_backend())
    front = changed_front(
        folder,
        change,
        replicas=(),
        backend=backend.address,
        inside=f"redis://{address}/0",
        options=("--hop", hop, "--", "--concurrency", str(workers)),
        store_timeout_ms=TIMEOUT_MS,
    )
    http = await stack.enter_async_context(front)
    (log,) = folder.glob("*.log")
    form = Form(http, backend, store, log)
    await decided(form, '"user";q=5;')
    return form


async def decided(form: Form, expected: str) -> None:
    """Waits until a request gets a response with this text."""

    async def in_force() -> bool:
        user = f"X-User-Id: probe{secrets.token_hex(8)}"  # a user that was denied would be denied again
        return expected.encode() in await form.response(request_of(user, line=f"GET {PROBE} HTTP/1.1"))

    await eventually(in_force, expected)


async def both(forms: list[Form], do: Callable[[Form], Awaitable[Any]]) -> list[Any]:
    """Does something with both forms at the same time."""
    return await asyncio.gather(*(do(form) for form in forms))


@asynccontextmanager
async def same_log(forms: list[Form]) -> AsyncIterator[None]:
    """Compares what the block adds to the access logs, in any order."""
    before = [len(form.log_lines()) for form in forms]
    yield

    async def lines(form: Form, start: int) -> list[str]:
        return sorted(json.dumps(line) for line in form.log_lines()[start:])

    async def equal() -> bool:
        added = [await lines(form, start) for form, start in zip(forms, before, strict=True)]
        return bool(added[0]) and added[0] == added[1]

    try:
        await eventually(equal, "equal lines in both access logs")
    except AssertionError:
        over_grpc, over_http = [await lines(form, start) for form, start in zip(forms, before, strict=True)]
        assert over_http == over_grpc
        raise


async def test_clients_backends_buckets_and_the_access_log_see_no_difference(forms: list[Form]) -> None:
    sent = {name: data.replace(b"user1", b"case%d" % n) for n, (name, data) in enumerate(ALL.items())}
    async with same_log(forms):
        over_grpc, over_http = await both(forms, lambda form: _each(form.results, sent))
    for name in ALL:
        assert over_http[name] == over_grpc[name], name
    charged = [{key: await form.store.hget(key, "tokens") for key in await _buckets(form)} for form in forms]
    assert charged[1] == charged[0]
    assert over_http["as many headers as Envoy accepts"][0][0].startswith("HTTP/1.1 200")


async def _each(do: Callable[[Any], Awaitable[Any]], of: dict[str, Any]) -> dict[str, Any]:
    return {name: await do(one) for name, one in of.items()}


async def _buckets(form: Form) -> list[Any]:
    keys = await form.store.keys("rate:user:*")
    return sorted(key for key in keys if b"probe" not in key)


async def test_clients_of_http2_see_no_difference(forms: list[Form]) -> None:
    async def results(form: Form) -> dict[str, Any]:
        sent = [form.over_http2(f"h2-{n}", fields) for n, fields in enumerate(OVER_HTTP2.values())]
        return dict(zip(OVER_HTTP2, await asyncio.gather(*sent), strict=True))

    async with same_log(forms):
        over_grpc, over_http = await both(forms, results)
    for name in OVER_HTTP2:
        assert over_http[name] == over_grpc[name], name


async def test_a_client_that_leaves_before_the_response_is_logged_with_its_decision(
    forms: list[Form],
) -> None:
    async def leave(form: Form) -> None:
        form.backend.heads.clear()
        form.backend.response = UNFINISHED
        _, writer = await asyncio.open_connection(form.address.host, form.address.port)
        writer.write(request_of("X-User-Id: leaves"))

        async def forwarded() -> bool:
            return bool(form.backend.heads)

        await eventually(forwarded, "the request reaches the backend")
        writer.close()
        await writer.wait_closed()
        form.backend.response = OK

    async with same_log(forms):
        await both(forms, leave)
    (last,) = [line for line in forms[1].log_lines() if line["flags"] == "DC"]
    assert (last["outcome"], last["remaining"]) == ("allowed", 1)


async def test_concurrent_requests_are_all_decided_and_charged_once(forms: list[Form]) -> None:
    async def sums(form: Form) -> Counter[bytes]:
        sent = [request_of(f"X-User-Id: many{n % 2}") for n in range(200)]
        return Counter(reply[9:12] for reply in await asyncio.gather(*map(form.response, sent)))

    async with same_log(forms):
        for counts in await both(forms, sums):
            assert counts == {b"200": 4, b"429": 196}


@pytest_asyncio.fixture(loop_scope="module")
async def undecided_forms(forms: list[Form]) -> AsyncIterator[list[Form]]:
    """Has the stores refuse writes, and waits until each form has noticed."""
    for form in forms:
        await form.store.config_set("min-replicas-to-write", 1)
    await both(forms, lambda form: decided(form, UNAVAILABLE))
    yield forms
    for form in forms:
        await form.store.config_set("min-replicas-to-write", 0)
    await both(forms, lambda form: decided(form, '"user";q=5;'))


async def test_without_a_decision_nobody_sees_a_difference(undecided_forms: list[Form]) -> None:
    sent = {data.decode(): data for data in AWAY}
    async with same_log(undecided_forms):
        over_grpc, over_http = await both(undecided_forms, lambda form: _each(form.results, sent))
    assert over_http == over_grpc


async def test_many_responses_are_handed_over_at_the_same_time(undecided_forms: list[Form]) -> None:
    async def many(form: Form) -> list[bytes]:
        data = request("GET /api/deny HTTP/1.1")
        return await asyncio.gather(*(form.response(data) for _ in range(50)))

    async with same_log(undecided_forms):
        for replies in await both(undecided_forms, many):
            assert {reply[:12] for reply in replies} == {b"HTTP/1.1 503"}
            assert all(reply.endswith(UNAVAILABLE.encode()) for reply in replies)


async def test_a_slow_store_charges_one_token_at_most(forms: list[Form]) -> None:
    async def answer(form: Form) -> str:
        await form.store.client_pause(60_000, all=False)  # delays writes
        response = await form.response(request_of("X-User-Id: slow"))
        await form.store.client_unpause()
        await decided(form, '"user";q=5;')
        return without_times(response)

    async with same_log(forms):
        over_grpc, over_http = await both(forms, answer)
    assert over_http == over_grpc
    assert UNAVAILABLE in over_http
    for form in forms:
        tokens = await form.store.hget("rate:user:slow", "tokens")
        assert tokens is None or float(tokens) >= 4

"""Traces through a real Envoy that sends its spans to the same receiver, with each way to run the service."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import httpx
import pytest
import pytest_asyncio

from ratelimitd.address import TcpAddress
from ratelimitd.demo import parts
from ratelimitd.demo.stack import ADDRESS_HEADER
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import env_name
from ratelimitd.store.client import open_client
from tests.eventually import eventually
from tests.example_limits import KEY
from tests.otlp_receiver import Receiver, Span, otlp_receiver
from tests.system.changed_front import changed_front, running_backend
from tests.system.tracing_recipe import FRONT, traced_to

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("traces")]

CHECK = "envoy.service.auth.v3.Authorization/Check"
POLICY = """
tiers:
  global: {capacity: 1000, refill_rate: 0.000001}
  user: {capacity: 1000, refill_rate: 0.000001}
  user_api: {capacity: 2, refill_rate: 0.000001}
routes:
  - {path: /api/users/*/orders, api: orders}
overrides:
  users:
    mallory: {blocked: true}
    admin: {exempt: true}
"""


@dataclass(frozen=True)
class Trace:
    """The spans of a request, of its decision, and of calls to the store."""

    status: int
    front: list[Span]
    decision: Span
    calls: list[Span]

    def outcome(self, *names: str) -> dict[str, object]:
        """Returns these attributes of the decision, without the prefix `ratelimitd.`."""
        return {name: self.decision.attributes.get(f"ratelimitd.{name}") for name in names}


@dataclass(frozen=True)
class System:
    """A service that exports spans, behind an Envoy that does, too."""

    http: httpx.AsyncClient
    receiver: Receiver

    async def send(self, user: str, path: str = "/api/ping", flags: str = "01") -> tuple[str, int]:
        """Sends a request as part of a new trace, and returns the id of the trace and the status."""
        trace = secrets.token_hex(16)
        headers = {"x-user-id": user, "traceparent": f"00-{trace}-{secrets.token_hex(8)}-{flags}"}
        reply = await self.http.get(path, headers=headers)
        return trace, reply.status_code

    async def arrived(self, trace: str, status: int) -> Trace:
        """Returns the spans of a trace once the last one has arrived."""

        def spans(service: str) -> list[Span]:
            return [span for span in self.receiver.of(service) if span.id.trace == trace]

        async def complete() -> bool:
            names = {span.name for span in self.receiver.spans if span.id.trace == trace}
            return names >= {CHECK, "ingress"}

        await eventually(complete, f"the spans of trace {trace}")
        ours = spans("ratelimitd")
        (decision,) = [span for span in ours if span.name == CHECK]
        calls = [span for span in ours if span.name == "EVALSHA"]
        return Trace(status, spans(FRONT), decision, calls)

    async def trace(self, user: str, path: str = "/api/ping") -> Trace:
        """Sends a request, and returns its trace."""
        return await self.arrived(*await self.send(user, path))


MODES = [("grpcio", "http/protobuf"), ("fast", "grpc"), ("inside", "http/protobuf")]
"""How the service runs, and the protocol to its collector."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODES, ids=[mode for mode, _ in MODES])
async def system(
    request: pytest.FixtureRequest, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[System]:
    mode, protocol = request.param
    folder = tmp_path_factory.mktemp("traces")
    async with AsyncExitStack() as stack:
        receiver = stack.enter_context(otlp_receiver())
        environ = stack.enter_context(pytest.MonkeyPatch.context())
        environ.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        environ.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint(protocol))
        environ.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        environ.setenv(env_name("store_timeout_ms"), "5000")  # a busy machine is slow
        environ.setenv(env_name("metrics_listen"), "")
        store = await stack.enter_async_context(open_client(store_url))
        await store.flushall()
        await store.set(KEY, POLICY)  # the replica records it as revision 1
        backend = await stack.enter_async_context(running_backend())
        replica = TcpAddress(LOOPBACK, free_port())
        inside = mode == "inside"
        if not inside:
            part = parts.replica(1, replica, TcpAddress(LOOPBACK, 0), ["--transport", mode])
            env = os.environ | {env_name("redis_url"): store_url, env_name("address_header"): ADDRESS_HEADER}
            process = await stack.enter_async_context(child(part.name, part.command, folder / "log", env))
            await process.until(part.ready)
        front = changed_front(
            folder,
            partial(traced_to, receiver),
            replicas=[replica],
            backend=backend.address,
            inside=store_url if inside else None,
        )
        yield System(await stack.enter_async_context(front), receiver)


async def test_a_decision_is_part_of_the_trace_of_its_request(system: System) -> None:
    trace = await system.trace("alice")
    (egress,) = [span for span in trace.front if span.kind == "client" and span.name.startswith("async ")]
    assert trace.status == 200
    assert (trace.decision.kind, trace.decision.parent) == ("server", egress.id.span)
    assert trace.decision.attributes | {"ratelimitd.policy.digest": "-"} == {
        "rpc.system.name": "grpc",
        "rpc.method": CHECK,
        "rpc.response.status_code": "OK",
        "http.request.method": "GET",
        "http.route": "/api/*",
        "ratelimitd.outcome": "allowed",
        "ratelimitd.source": "store",
        "ratelimitd.api": "/api/*",
        "ratelimitd.identity.kind": "header",
        "ratelimitd.policy.digest": "-",
        "ratelimitd.policy.revision": 1,
    }
    assert not trace.decision.failed


async def test_the_call_of_the_store_links_to_its_decision(system: System, store_url: str) -> None:
    trace = await system.trace("bob")
    (call,) = trace.calls
    port = int(store_url.rpartition(":")[2].partition("/")[0])
    assert (call.kind, call.parent, call.links) == ("client", trace.decision.id.span, [trace.decision.id])
    assert call.attributes == {
        "db.system.name": "redis",
        "db.namespace": "0",
        "db.operation.name": "EVALSHA",
        "server.address": LOOPBACK,
        "server.port": port,
        "network.transport": "tcp",
        "network.peer.address": LOOPBACK,
        "network.peer.port": port,
    }
    assert not call.failed


async def test_a_denial_names_its_tier(system: System) -> None:
    traces = [await system.trace("carol") for _ in range(3)]
    assert [trace.status for trace in traces] == [200, 200, 429]
    denied = {"outcome": "denied", "tier": "user_api", "source": "store"}
    assert traces[2].outcome("outcome", "tier", "source") == denied
    assert len(traces[2].calls) == 1
    assert not traces[2].decision.failed


async def test_a_local_denial_has_no_call_of_the_store(system: System) -> None:
    async def denied_locally() -> bool:
        # A replica remembers a denial for a second, so one of these follows soon enough on another.
        sent = [await system.send("frank") for _ in range(6)]
        traces = [await system.arrived(*one) for one in sent]
        local = [trace for trace in traces if trace.outcome("source") == {"source": "local"}]
        assert [trace.calls for trace in local] == [[]] * len(local)
        assert {trace.outcome("tier")["tier"] for trace in local} <= {"user_api"}
        return bool(local)

    await eventually(denied_locally, "a local denial")


@pytest.mark.parametrize(
    ("user", "status", "outcome"), [("mallory", 403, "blocked"), ("admin", 200, "exempt")]
)
async def test_a_decision_without_buckets_has_a_span(
    system: System, user: str, status: int, outcome: str
) -> None:
    trace = await system.trace(user)
    assert (trace.status, trace.calls) == (status, [])
    assert trace.outcome("outcome", "source", "tier") == {"outcome": outcome, "source": "local", "tier": None}


async def test_spans_name_the_route_but_neither_the_path_nor_the_user(system: System) -> None:
    trace = await system.trace("dave-4711", "/api/users/4711/orders?token=4711")
    assert trace.decision.attributes["http.route"] == "/api/users/*/orders"
    assert trace.outcome("api") == {"api": "orders"}
    assert "4711" not in str([span.attributes for span in (trace.decision, *trace.calls)])


async def test_spans_name_the_replica_as_the_store_does(system: System, store_url: str) -> None:
    trace = await system.trace("erin")
    resource = trace.decision.resource
    assert resource.keys() >= {"service.version", "service.instance.id", "telemetry.sdk.name"}
    async with open_client(store_url) as store:
        replicas = await store.hkeys(f"{{{KEY}}}:replicas")
    assert [resource["ratelimitd.replica"].encode()] == replicas


async def test_concurrent_decisions_share_a_call_that_links_to_all_of_them(system: System) -> None:
    sent = await asyncio.gather(*(system.send(f"burst-{number}") for number in range(24)))
    traces = [await system.arrived(*one) for one in sent]
    decisions = {trace.decision.id for trace in traces}
    calls = [span for span in system.receiver.of("ratelimitd") if decisions & {*span.links}]
    assert sorted(link for call in calls for link in call.links) == sorted(decisions)
    for call in calls:
        assert call.parent == call.links[0].span
        assert call.attributes.get("db.operation.batch.size", 1) == len(call.links)
        linking = {trace.decision.id for trace in traces if call.id in trace.decision.links}
        assert linking == {*call.links[1:]}


async def test_a_trace_that_is_not_sampled_has_no_spans(system: System) -> None:
    unsampled = [await system.send(f"unsampled-{number}", flags="00") for number in range(3)]
    await system.trace("last")  # spans arrive in order
    seen = {span.id.trace for span in system.receiver.spans}
    assert not seen & {trace for trace, _ in unsampled}

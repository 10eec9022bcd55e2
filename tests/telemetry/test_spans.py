"""Spans of decisions and of calls to the store, recorded in memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, DEFAULT_ON, Sampler
from opentelemetry.trace import StatusCode
from structlog.testing import capture_logs

from ratelimitd.core.match import DRY_RUN_CONTEXT
from ratelimitd.core.model import Outcome, Request, TakeRequest, Verdict
from ratelimitd.core.ports import BatchCallback, Decide
from ratelimitd.errors import StoreError, StoreRefusedError
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.store_url import parse_store_url
from ratelimitd.telemetry.traces.decision_spans import METHOD
from ratelimitd.telemetry.traces.opening import recorded
from tests.core.fakes import FLAT_POLICY, OracleLimiter, decider_over

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"


def request(traceparent: str = SAMPLED, user: str = "alice", method: str = "GET", **context: str) -> Request:
    return Request(method, "/api/ping", "host", {"x-user-id": user}, "203.0.113.9", context, traceparent)


class Store:
    """A store in memory, which fails every call while `error` is set."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._limiter = OracleLimiter()

    def submit(self, requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
        asyncio.get_running_loop().create_task(self._answer(requests, callback))

    async def _answer(self, requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
        outcomes: list[Outcome] = [await self._limiter.take(request) for request in requests]
        callback(self.error or outcomes)


@dataclass(frozen=True)
class Traced:
    """A decider with traces."""

    decide: Decide
    store: Store
    provider: TracerProvider
    exporter: InMemorySpanExporter

    def spans(self, name: str = METHOD) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@asynccontextmanager
async def traced(sampler: Sampler = DEFAULT_ON, url: str = "redis://cache:7000/3") -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traces = recorded(provider)
    store = Store()
    calls = traces.of_calls(store, parse_store_url(url), lambda: ("10.0.0.7", 7000))
    async with Batcher(calls, timeout_s=5) as batcher:
        decide = decider_over(traces.of_takes(batcher))
        yield Traced(traces.of_decisions(decide, {FLAT_POLICY.digest: 7}.get), store, provider, exporter)


async def test_a_decision_continues_the_trace_of_its_call() -> None:
    async with traced() as system:
        await system.decide(request())
    (span,) = system.spans()
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert span.attributes is not None
    assert span.attributes["ratelimitd.policy.revision"] == 7


@pytest.mark.parametrize("traceparent", ["", "garbage", f"00-{'0' * 32}-{PARENT}-00", f"00-{TRACE}-1-00"])
async def test_a_call_without_a_valid_trace_begins_one(traceparent: str) -> None:
    async with traced() as system:
        await system.decide(request(traceparent))
    (span,) = system.spans()
    assert span.parent is None


@pytest.mark.parametrize("flags", ["00", "02", "fe"])
async def test_a_sampler_that_follows_its_parent_drops_what_that_drops(flags: str) -> None:
    traceparent = f"00-{TRACE}-{PARENT}-{flags}"
    async with traced() as system:
        assert (await system.decide(request(traceparent))).verdict is Verdict.ALLOWED
    assert system.exporter.get_finished_spans() == ()
    async with traced(ALWAYS_ON) as system:
        await system.decide(request(traceparent))
    assert len(system.spans()) == 1


async def test_only_sampled_decisions_of_a_call_are_linked() -> None:
    async with traced() as system:
        both = (request(), request(f"00-{TRACE}-{PARENT}-00", "bob"), request(SAMPLED, "carol"))
        await asyncio.gather(*map(system.decide, both))
    (call,) = system.spans("EVALSHA")
    first, second = system.spans()
    assert [link.context for link in call.links] == [first.context, second.context]
    assert call.parent == first.context
    assert [link.context for link in second.links] == [call.context]
    assert call.attributes is not None
    assert call.attributes["db.operation.batch.size"] == 3


async def test_equal_requests_that_share_a_call_keep_their_own_spans() -> None:
    async with traced() as system:
        await asyncio.gather(system.decide(request()), system.decide(request()))
    (call,) = system.spans("EVALSHA")
    linked = [link.context for link in call.links]
    assert linked == [span.get_span_context() for span in system.spans()]
    assert linked[0] != linked[1]


async def test_a_call_with_many_decisions_has_a_limited_number_of_links() -> None:
    async with traced() as system:
        await asyncio.gather(*(system.decide(request(SAMPLED, f"u{number}")) for number in range(300)))
    assert max(len(call.links) for call in system.spans("EVALSHA")) <= 128


async def test_a_call_names_the_store() -> None:
    async with traced() as system:
        await system.decide(request())
    (call,) = system.spans("EVALSHA")
    assert call.attributes == {
        "db.system.name": "redis",
        "db.namespace": "3",
        "db.operation.name": "EVALSHA",
        "server.address": "cache",
        "server.port": 7000,
        "network.transport": "tcp",
        "network.peer.address": "10.0.0.7",
        "network.peer.port": 7000,
    }


async def test_the_password_of_the_store_is_not_recorded() -> None:
    async with traced(url="redis://app:hunter2@cache") as system:
        await system.decide(request())
    assert "hunter2" not in "".join(span.to_json() for span in system.exporter.get_finished_spans())


async def test_an_undecided_request_is_an_error() -> None:
    async with traced() as system:
        system.store.error = StoreError("the store failed: connection refused")
        assert (await system.decide(request())).verdict is Verdict.UNDECIDED
    for span in (*system.spans(), *system.spans("EVALSHA")):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "the store failed: connection refused"
        assert span.attributes is not None
        assert span.attributes["error.type"] == "StoreError"


async def test_a_refusal_is_recorded_by_its_code_alone() -> None:
    async with traced() as system:
        system.store.error = StoreRefusedError(
            "the store failed: OOM not allowed (the command was EVALSHA with the keys rate:user:alice)"
        )
        await system.decide(request())
    spans = system.exporter.get_finished_spans()
    assert [(span.attributes or {}).get("db.response.status_code") for span in spans] == ["OOM", "OOM"]
    assert "alice" not in "".join(span.to_json() for span in spans)


async def test_a_dry_run_is_marked() -> None:
    async with traced() as system:
        await system.decide(request(**{DRY_RUN_CONTEXT: "true"}))
        await system.decide(request())
    marks = [(span.attributes or {}).get("ratelimitd.dry_run") for span in system.spans()]
    assert marks == [True, None]


async def test_an_unknown_method_is_not_recorded() -> None:
    async with traced() as system:
        await system.decide(request(method="SECRET4711"))
    (span,) = system.spans()
    assert span.attributes is not None
    assert span.attributes["http.request.method"] == "_OTHER"


async def test_a_cancelled_decision_ends_its_span() -> None:
    async with traced() as system:
        task = asyncio.ensure_future(system.decide(request()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        (span,) = system.spans()
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["rpc.response.status_code"] == "CANCELLED"


async def test_failing_spans_change_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    async with traced() as system:
        monkeypatch.setattr("opentelemetry.sdk.trace._Span.set_attributes", fail)
        assert (await system.decide(request())).verdict is Verdict.ALLOWED
        monkeypatch.setattr("opentelemetry.sdk.trace.Tracer.start_span", fail)
        with capture_logs() as lines:
            assert (await system.decide(request())).verdict is Verdict.ALLOWED
        assert {line["event"] for line in lines} == {"span_failed"}
        system.store.error = StoreError("away")
        assert (await system.decide(request())).verdict is Verdict.UNDECIDED


async def test_a_failing_span_of_a_call_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    async with traced() as system:
        monkeypatch.setattr("ratelimitd.telemetry.traces.store_call_spans.Link", fail)
        assert (await system.decide(request())).verdict is Verdict.ALLOWED
    assert len(system.spans()) == 1

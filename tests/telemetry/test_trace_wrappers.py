"""Traces that are off, and traces that are on."""

import pytest

from ratelimitd.store_url import parse_store_url
from ratelimitd.telemetry.traces.decision_spans import DecisionSpans
from ratelimitd.telemetry.traces.opening import open_traces
from tests.core.fakes import OracleLimiter, decider_over
from tests.telemetry.test_spans import Store


async def test_without_traces_each_part_stays_as_it_is() -> None:
    store, limiter = Store(), OracleLimiter()
    decider = decider_over(limiter)
    async with open_traces({}, "host:1:abc") as traces:
        assert traces.of_calls(store, parse_store_url("redis://cache"), lambda: None) is store
        assert traces.of_takes(limiter) is limiter
        assert traces.of_decisions(decider, lambda _: None) is decider


async def test_a_variable_turns_traces_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    async with open_traces({"OTEL_TRACES_EXPORTER": "console"}, "host:1:abc") as traces:
        assert isinstance(traces.of_decisions(decider_over(OracleLimiter()), lambda _: None), DecisionSpans)

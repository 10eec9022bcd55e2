"""Tests of observers, which see each decision and change none."""

from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from ratelimitd.core.decision import Decision
from ratelimitd.core.model import Request, Verdict
from ratelimitd.telemetry.observers import ObserverErrorLog
from tests.core.fakes import BrokenLimiter, OracleLimiter, decider_over

if TYPE_CHECKING:
    from ratelimitd.core.ports import Observer

REQUEST = Request("GET", "/", "host", {"x-user-id": "u1"}, "203.0.113.9", {}, "00-trace-span-01")


class Recorder:
    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def decided(self, decision: Decision) -> None:
        self.decisions.append(decision)


class FailingObserver:
    def decided(self, _decision: Decision) -> None:
        raise ValueError("broken")


async def test_an_observer_receives_each_decision() -> None:
    recorder = Recorder()
    decide = decider_over(OracleLimiter(), observers=[recorder])
    returned = [await decide(REQUEST) for _ in range(4)]
    assert recorder.decisions == returned
    assert [decision.verdict for decision in returned] == [Verdict.ALLOWED] * 3 + [Verdict.DENIED]
    assert {decision.request.traceparent for decision in returned} == {"00-trace-span-01"}
    undecided = await decider_over(BrokenLimiter(), observers=[recorder])(REQUEST)
    assert recorder.decisions[-1] is undecided
    assert undecided.verdict is Verdict.UNDECIDED


async def test_a_failing_observer_changes_no_decision_and_is_logged_once() -> None:
    recorder, failing = Recorder(), FailingObserver()
    observers: list[Observer] = [failing, recorder]
    decide = decider_over(OracleLimiter(), observers=observers, on_observer_error=ObserverErrorLog())
    with capture_logs() as lines:
        verdicts = [(await decide(REQUEST)).verdict for _ in range(4)]
    assert verdicts == [Verdict.ALLOWED] * 3 + [Verdict.DENIED]
    assert len(recorder.decisions) == 4
    assert [(line["event"], line["observer"]) for line in lines] == [("observer_failed", "FailingObserver")]

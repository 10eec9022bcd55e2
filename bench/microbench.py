"""Microbenchmarks of the steps of a decision, in this process and without I/O."""

import time
from collections.abc import Callable, Coroutine
from typing import Any

from bench import grpc_methods, large_policy, leased_decisions
from bench.goals import Goal
from bench.stores import POLICY_SET, take_request
from bench.table import Table, with_spread
from ratelimitd.core.decide import Decider
from ratelimitd.core.decision import Decision
from ratelimitd.core.identity import identify, parse_sources
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.match import Matcher
from ratelimitd.core.model import MICRO, OnStoreError, Outcome, TakeRequest
from ratelimitd.core.policy import PolicySet
from ratelimitd.limiter import take_script
from ratelimitd.telemetry.decision_counts import DecisionCounts
from ratelimitd.transport.ext_authz import decode, encoder

SOURCES = parse_sources("header:x-user-id,address", "x-ratelimitd-client-address")
_PREFIX_BYTES = 5
_BATCH = 32
_RUNS_PER_CHECK = 200
"""Runs between two readings of the clock."""


class _Policies:
    def current(self) -> PolicySet:
        return POLICY_SET


class _FixedLimiter:
    """Returns the same outcome for each request, without waiting."""

    def __init__(self, *, allowed: bool, local: bool) -> None:
        tokens = (999 * MICRO + 5, 99 * MICRO + 5, 9 * MICRO + 5 if allowed else 0)
        self._outcome = Outcome(allowed, tokens, local=local)

    async def take(self, _request: TakeRequest) -> Outcome:
        return self._outcome


def _decider(*, allowed: bool, local: bool = False) -> Decider:
    return Decider(
        policies=_Policies(),
        limiter=_FixedLimiter(allowed=allowed, local=local),
        sources=SOURCES,
        layout=KeyLayout("rate"),
        on_store_error=OnStoreError.DENY,
    )


def steps_table(*, times: int, seconds: float) -> tuple[Table, list[Goal]]:
    """Microseconds of each step and of all steps together, and the goal for a large policy."""
    rows = []
    for name, step, size in _steps():
        values = [_us(step, seconds) / size for _ in range(times)]
        rows.append([name, with_spread(values, 2)])
    added = large_policy.added_us(POLICY_SET, times, lambda step: _us(step, seconds))
    what = f"match, added by {large_policy.ROUTES} routes and {large_policy.OVERRIDES} overrides"
    rows.append([what, with_spread(added, 2)])
    table = Table("Steps of a decision without I/O: us per decision", ["step", "us"], rows)
    return table, [Goal(f"{what}, us", large_policy.MAX_ADDED_US, added)]


def _steps() -> list[tuple[str, Callable[[], object], int]]:
    """The steps, as (name, function, decisions per run)."""
    payload = grpc_methods.USER.join(grpc_methods.check().pieces)[_PREFIX_BYTES:]
    request = decode(payload)
    identity = identify(SOURCES, request)
    matcher, encode = Matcher(POLICY_SET, KeyLayout("rate")), encoder()
    allowing, denying = _decider(allowed=True), _decider(allowed=False)
    allowed, denied = (_finished(decide(request)) for decide in (allowing, denying))
    counts = DecisionCounts()
    denied_locally = _finished(_decider(allowed=False, local=True)(request))
    requests = [take_request(number) for number in range(_BATCH)]
    reply = [number for _ in requests for number in (1, 999 * MICRO, 99 * MICRO, 9 * MICRO)]
    return [
        ("decode the request", lambda: decode(payload), 1),
        ("identify", lambda: identify(SOURCES, request), 1),
        ("match", lambda: matcher.match(request, identity).take_request(identity), 1),
        ("decide, allowed (includes the two rows above)", lambda: _finished(allowing(request)), 1),
        ("decide, denied (includes the two rows above)", lambda: _finished(denying(request)), 1),
        (f"encode the script call, batches of {_BATCH}", lambda: take_script.encode(requests), _BATCH),
        (
            f"decode the script reply, batches of {_BATCH}",
            lambda: take_script.decode(reply, requests),
            _BATCH,
        ),
        ("observe, allowed", lambda: counts.decided(allowed), 1),
        ("observe, denied by the store", lambda: counts.decided(denied), 1),
        ("observe, denied locally", lambda: counts.decided(denied_locally), 1),
        *(
            (name, lambda decider=decider: _finished(decider(request)), 1)
            for name, decider in leased_decisions.deciders()
        ),
        ("render and encode the response, allowed", lambda: encode(allowed), 1),
        ("render and encode the response, denied", lambda: encode(denied), 1),
        ("decode, decide, encode; allowed", lambda: encode(_finished(allowing(decode(payload)))), 1),
        ("decode, decide, encode; denied", lambda: encode(_finished(denying(decode(payload)))), 1),
    ]


def _finished(decision: Coroutine[Any, Any, Decision]) -> Decision:
    """Runs a coroutine that never waits and returns its result."""
    try:
        decision.send(None)
    except StopIteration as end:
        result: Decision = end.value
        return result
    raise AssertionError("a decision without I/O waited")


def _us(step: Callable[[], object], seconds: float) -> float:
    """Microseconds of one run of a step, which is repeated for this number of seconds."""
    runs, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for _ in range(_RUNS_PER_CHECK):
            step()
        runs += _RUNS_PER_CHECK
    return took / runs * 1e6

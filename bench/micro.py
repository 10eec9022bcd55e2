"""The work of a decision without any I/O, in this process: what is left when network and store are free."""

import time
from collections.abc import Callable, Coroutine
from typing import Any

from bench import messages, policies
from bench.goals import Goal
from bench.stores import POLICY_SET, spend
from bench.table import Table, shown
from ratelimitd.core.check import Check
from ratelimitd.core.identity import identify, parse_sources
from ratelimitd.core.match import match
from ratelimitd.core.model import MICRO, Answer, OnStoreError, Outcome, TakeRequest
from ratelimitd.core.policy import PolicySet
from ratelimitd.limiter import take_script
from ratelimitd.transport.ext_authz import decode, encode

SOURCES = parse_sources("header:x-user-id,address", "x-ratelimitd-client-address")
_PREFIX_BYTES = 5
_BATCH = 32
_AT_ONCE = 200
"""Runs between two looks at the clock."""


class _Policies:
    def current(self) -> PolicySet:
        return POLICY_SET


class _Store:
    """Answers at once, always the same."""

    def __init__(self, *, allowed: bool) -> None:
        self._outcome = Outcome(allowed, (999 * MICRO + 5, 99 * MICRO + 5, 9 * MICRO + 5 if allowed else 0))

    async def take(self, _request: TakeRequest) -> Outcome:
        return self._outcome


def _check(*, allowed: bool) -> Check:
    return Check(
        policies=_Policies(),
        limiter=_Store(allowed=allowed),
        sources=SOURCES,
        key_prefix="rate",
        on_store_error=OnStoreError.DENY,
    )


def micro_table(*, times: int, seconds: float) -> tuple[Table, list[Goal]]:
    """Microseconds of each step, and of all of them together."""
    rows = []
    for name, step, size in _steps():
        values = [_us(step, seconds) / size for _ in range(times)]
        rows.append([name, shown(values, 2)])
    added = policies.added_us(POLICY_SET, times, lambda step: _us(step, seconds))
    what = f"a match with {policies.ROUTES} routes and {policies.OVERRIDES} overrides: us more than with none"
    rows.append([what, shown(added, 2)])
    return Table("Without I/O: us a decision", ["step", "us"], rows), [Goal(what, policies.MATCH_US, added)]


def _steps() -> list[tuple[str, Callable[[], object], int]]:
    """Name, what to run, and how many decisions that is."""
    payload = messages.USER.join(messages.check().pieces)[_PREFIX_BYTES:]
    request = decode(payload)
    who = identify(SOURCES, request)
    allowing, denying = _check(allowed=True), _check(allowed=False)
    answer, denial = (_finished(check(request)) for check in (allowing, denying))
    spends = [spend(number) for number in range(_BATCH)]
    reply = [number for _ in spends for number in (1, 999 * MICRO, 99 * MICRO, 9 * MICRO)]
    return [
        ("translate.decode", lambda: decode(payload), 1),
        ("identify", lambda: identify(SOURCES, request), 1),
        ("match", lambda: match(POLICY_SET, request, who, "rate").spend(who), 1),
        ("check, allowed (with the two above)", lambda: _finished(allowing(request)), 1),
        ("check, denied (with the two above)", lambda: _finished(denying(request)), 1),
        (f"take_script.encode, batches of {_BATCH}", lambda: take_script.encode(spends), _BATCH),
        (f"take_script.decode, batches of {_BATCH}", lambda: take_script.decode(reply, spends), _BATCH),
        ("translate.encode, allowed", lambda: encode(answer), 1),
        ("translate.encode, denied", lambda: encode(denial), 1),
        ("decode, check, encode; allowed", lambda: encode(_finished(allowing(decode(payload)))), 1),
        ("decode, check, encode; denied", lambda: encode(_finished(denying(decode(payload)))), 1),
    ]


def _finished(decision: Coroutine[Any, Any, Answer]) -> Answer:
    """The result of a coroutine that waits for nothing."""
    try:
        decision.send(None)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    raise AssertionError("a decision without I/O waited for something")


def _us(step: Callable[[], object], seconds: float) -> float:
    """Microseconds that a step takes, run again and again for so long."""
    runs, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for _ in range(_AT_ONCE):
            step()
        runs += _AT_ONCE
    return took / runs * 1e6

"""Answers about usage that are made up, and a control that returns one."""

import math
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from ratelimitd.control.control import Control
from ratelimitd.control.usage_answers import ApiUsage, DecisionTotals, RevisionMark, Usage, UsageStep
from ratelimitd.core.model import MICRO
from ratelimitd.core.tiers import TierName
from ratelimitd.settings import load
from ratelimitd.usage.ranges import UsageRange

NOW_US = 1_796_000_005 * MICRO
STEPS = {"15m": (90, 10), "1h": (360, 10), "24h": (288, 300), "7d": (336, 1800)}


class ControlOfUsage(Control):
    """A control that returns `made`, and records the ranges that it was asked for."""

    def __init__(self, client: Redis, made: Usage | None = None) -> None:
        super().__init__(client, load({}, {}))
        self.made = made
        self.asked = list[UsageRange]()

    async def usage(self, over: UsageRange) -> Usage:
        """Returns `made`, by default lively usage."""
        self.asked.append(over)
        return self.made or lively(over)


def usage_of(over: UsageRange, steps: list[UsageStep], **more: Any) -> Usage:
    """Returns the answer with these steps."""
    count, step_s = STEPS[over]
    tiers = {tier: sum(step.denied_by[tier] for step in steps) for tier in TierName}
    counted = {
        one: sum(getattr(step, one) for step in steps)
        for one in ("allowed", "denied", "blocked", "exempt", "undecided", "local", "degraded")
    }
    totals = DecisionTotals(**counted, denied_by=tiers)
    assert len(steps) == count
    fields: dict[str, Any] = {
        "range": over,
        "at_us": NOW_US,
        "step_s": step_s,
        "steps": steps,
        "api_step_s": step_s * 6,
        "api_from_us": steps[0].at_us,
        "apis": [],
        "revisions": [],
        "totals": totals,
        "cumulative": totals,
        "store_p50_s": 0.0004,
        "store_p99_s": 0.002,
    }
    return Usage(**fields | more)


def start_us(over: UsageRange, step: int) -> int:
    """Returns the beginning of a step. The last one has begun and is not over."""
    count, step_s = STEPS[over]
    now_s = NOW_US // MICRO
    return (now_s - now_s % step_s - (count - 1 - step) * step_s) * MICRO


def steps_of(
    over: UsageRange, values: Mapping[int, Mapping[str, Any]] | None = None, **each: Any
) -> list[UsageStep]:
    """Returns equal steps. `values` replaces the values of some steps, by their number."""
    count, _ = STEPS[over]
    made = []
    for at in range(count):
        fields: dict[str, Any] = {"at_us": start_us(over, at), "complete": at < count - 1} | each
        made.append(UsageStep(**fields | dict((values or {}).get(at, {}))))
    return made


def lively(over: UsageRange) -> Usage:
    """Returns a day as it may be: waves of traffic, denials, a short outage, changes of the policy."""
    count, step_s = STEPS[over]
    steps = []
    for at in range(count):
        wave = 1 + 0.45 * math.sin(at / count * 9) + 0.08 * math.sin(at * 1.7) + 0.05 * math.cos(at * 2.9)
        busy = 2.2 if count * 0.62 < at < count * 0.68 else 1.0
        away = count * 0.4 <= at < count * 0.42
        denied = {
            TierName.GLOBAL: int(max(0, wave * busy - 2.0) * 60 * step_s),
            TierName.USER: int(4 * wave * step_s),
            TierName.USER_API: int(9 * wave * busy * step_s),
        }
        steps.append(
            UsageStep(
                at_us=start_us(over, at),
                complete=at < count - 1,
                allowed=0 if away else int(118 * wave * busy * step_s),
                denied=0 if away else sum(denied.values()),
                undecided=int(60 * wave * step_s) if away else 0,
                denied_by=dict.fromkeys(TierName, 0) if away else denied,
                global_tokens=None if away else int(max(0.0, 500 - 150 * wave * busy) * MICRO),
                global_capacity=None if away else 500,
                store_p50_s=None if away else 0.00035 + 0.0001 * wave * busy,
                store_p99_s=None if away else 0.0011 + 0.0009 * wave * busy * busy,
                replicas=2 if count * 0.75 < at < count * 0.77 else 3,
                revision=4,
            )
        )
    names = ("/api/orders", "/api/search", "/api/users/{id}", "checkout", "/api/reports/**", "*")
    apis = [
        ApiUsage(
            api=name,
            allowed=48_000 // (at + 1),
            denied=3_900 // (at * at + 1),
            per_step=[int(100 * (1 + math.sin(one / 3 + at))) for one in range(15)],
        )
        for at, name in enumerate(names)
    ]
    revisions = [
        RevisionMark(number=3, at_us=start_us(over, count // 4), author="bob", note=""),
        RevisionMark(number=4, at_us=start_us(over, count * 7 // 10), author="alice", note="search costs 5"),
    ]
    return usage_of(over, steps, apis=apis, revisions=revisions)


def many_apis(count: int) -> list[ApiUsage]:
    """Returns this many APIs, those with the most requests first."""
    return [
        ApiUsage(api=f"/api/{at}", allowed=1000 - at, denied=at, per_step=[1000 - at, at])
        for at in range(count)
    ]

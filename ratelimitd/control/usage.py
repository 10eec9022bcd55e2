"""The answer about usage: the series in the store as steps without gaps, and what changed meanwhile."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from ratelimitd.control.usage_answers import ApiUsage, DecisionTotals, RevisionMark, Usage, UsageStep
from ratelimitd.core.model import MICRO, Verdict
from ratelimitd.core.tiers import TierName
from ratelimitd.errors import WrongTypeError
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.store.client import store_errors
from ratelimitd.store.refused_writes import refused_writes
from ratelimitd.usage import layout
from ratelimitd.usage.folding import StepCounts
from ratelimitd.usage.quantile import quantile_s
from ratelimitd.usage.ranges import RESOLUTIONS, UsageRange
from ratelimitd.usage.series import Series, SeriesReader, first_steps_s

LATE_S = 10
"""How long after its end the counts of a step may arrive: twice the interval at which replicas report."""


async def read_usage(client: Redis, reader: SeriesReader, revisions: Revisions, over: UsageRange) -> Usage:
    """Returns the usage in a range. Raises StoreError."""
    with store_errors():
        seconds, micros = await client.time()
    resolution = RESOLUTIONS[over]
    first_s, api_first_s = first_steps_s(resolution, seconds)
    warnings: list[str] = []
    cumulative = await reader.totals(warnings)
    series = await reader.series(resolution, seconds)
    warnings += series.warnings
    steps = [
        _step(
            series.steps.get(at_s, StepCounts()), at_s, complete=at_s + resolution.step_s + LATE_S <= seconds
        )
        for at_s in range(first_s, seconds + 1, resolution.step_s)
    ]
    if not any(step.replicas for step in steps[-2:]) and (reason := await refused_writes(client)):
        warnings.append(f"the store refuses writes, so replicas cannot report: {reason}")
    counts: Counter[str] = Counter()
    for step in series.steps.values():
        counts.update(step.counts)
    return Usage(
        range=over,
        at_us=seconds * MICRO + micros,
        step_s=resolution.step_s,
        steps=steps,
        api_step_s=resolution.api_step_s,
        api_from_us=api_first_s * MICRO,
        apis=_apis(series, range(api_first_s, seconds + 1, resolution.api_step_s)),
        revisions=await _marks(revisions, first_s * MICRO, warnings),
        totals=DecisionTotals(**_totals(counts)),
        cumulative=DecisionTotals(**_totals(cumulative)),
        **_store_seconds(counts),
        warnings=warnings,
    )


async def read_cumulative(reader: SeriesReader) -> DecisionTotals | None:
    """Returns all decisions so far, None if some cannot be read. Raises StoreError."""
    warnings: list[str] = []
    totals = await reader.totals(warnings)
    return None if warnings else DecisionTotals(**_totals(totals))


def _step(step: StepCounts, at_s: int, *, complete: bool) -> UsageStep:
    state = step.state
    return UsageStep(
        at_us=at_s * MICRO,
        complete=complete,
        global_tokens=state and state.tokens,
        global_capacity=state and state.capacity,
        replicas=step.replicas,
        revision=state and state.revision,
        **_totals(step.counts),
        **_store_seconds(step.counts),
    )


def _totals(counts: Mapping[str, int]) -> dict[str, Any]:
    """Returns the fields of DecisionTotals."""
    denied_by = {tier: counts.get(layout.CODES[Verdict.DENIED, tier], 0) for tier in TierName}
    others = {
        outcome.value: counts.get(layout.CODES[outcome, ""], 0)
        for outcome in Verdict
        if outcome is not Verdict.DENIED
    }
    return {
        **others,
        "denied": sum(denied_by.values()),
        "denied_by": denied_by,
        "local": counts.get(layout.LOCAL, 0),
        "degraded": counts.get(layout.DEGRADED, 0),
    }


def _store_seconds(counts: Mapping[str, int]) -> dict[str, Any]:
    """Returns the percentiles of the durations of calls to the store."""
    histogram = [counts.get(code, 0) for code in layout.STORE_SECONDS]
    return {"store_p50_s": quantile_s(histogram, 0.5), "store_p99_s": quantile_s(histogram, 0.99)}


def _apis(series: Series, starts_s: range) -> list[ApiUsage]:
    """Returns the APIs, those with the most requests first."""
    apis = []
    for name, steps in series.apis.items():
        each = [steps.get(at_s, (0, 0)) for at_s in starts_s]
        allowed, denied = (sum(counts) for counts in zip(*each, strict=True))
        if allowed or denied:
            per_step = [sum(counts) for counts in each]
            apis.append(ApiUsage(api=name, allowed=allowed, denied=denied, per_step=per_step))
    return sorted(apis, key=lambda one: (-one.allowed - one.denied, one.api))


async def _marks(revisions: Revisions, since_us: int, warnings: list[str]) -> list[RevisionMark]:
    """Returns the revisions of the range. Raises StoreError."""
    try:
        found = await revisions.since(since_us)
    except WrongTypeError as error:
        warnings.append(f"changes of the policy cannot be shown: {error}")
        return []
    return [
        RevisionMark(number=one.number, at_us=one.at_us, author=one.author, note=one.note) for one in found
    ]

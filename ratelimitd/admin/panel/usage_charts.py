"""The charts of the page Usage, made of an answer about usage: no store and no clock."""

from collections.abc import Callable
from operator import attrgetter

from ratelimitd.admin.panel.chart_axes import Axis, Mark, marks_on
from ratelimitd.admin.panel.charts import Line, Plot, Value, last
from ratelimitd.admin.panel.figures import compact, figures, per_second, seconds
from ratelimitd.admin.panel.rendering import isolated
from ratelimitd.control.usage_answers import Usage, UsageStep
from ratelimitd.core.model import MICRO
from ratelimitd.core.tiers import TierName
from ratelimitd.display import utc_time
from ratelimitd.usage.ranges import UsageRange

SOUND_S = 60
"""How much of a step must be over before its unfinished counts say anything: until then, some replicas have
not reported."""

OUTCOMES = (
    ("allowed", "one"),
    ("denied", "two"),
    ("undecided", "three"),
    ("exempt", "four"),
    ("blocked", "five"),
)
NO_REPORTS = "No replica reported in this range."
ALWAYS_SHOWN = {"allowed", "denied", "undecided"}
TIERS = (
    (TierName.GLOBAL, "one"),
    (TierName.USER, "two"),
    (TierName.USER_API, "three"),
)

_LABELS_S = {
    UsageRange.QUARTER_HOUR: 180,
    UsageRange.HOUR: 600,
    UsageRange.DAY: 4 * 3600,
    UsageRange.WEEK: 86_400,
}


def axis_of(usage: Usage) -> Axis:
    """Returns the time axis of all charts."""
    return Axis(
        start_us=usage.steps[0].at_us,
        step_s=usage.step_s,
        steps=len(usage.steps),
        label_s=_LABELS_S[usage.range],
        with_day=usage.range in {UsageRange.DAY, UsageRange.WEEK},
    )


def plots(usage: Usage) -> list[Plot]:
    """Returns the charts."""
    return [_decisions(usage), _denied_by(usage), _global_tokens(usage), _store(usage), _replicas(usage)]


def rates(usage: Usage, count: Callable[[UsageStep], int]) -> list[Value]:
    """Returns a count per second for each step, None where no replica reported.

    The rate of a step that is not over is that of its time so far; None if that is short.
    """
    rates = list[Value]()
    for step in usage.steps:
        over_s = usage.step_s if step.complete else min(_age_s(usage, step), usage.step_s)
        known = (step.replicas or step.requests) and _sound(usage, step)
        rates.append(count(step) / over_s if known else None)
    return rates


def _age_s(usage: Usage, step: UsageStep) -> float:
    return (usage.at_us - step.at_us) / MICRO


def _sound(usage: Usage, step: UsageStep) -> bool:
    """Returns whether all replicas have reported in a step."""
    return step.complete or min(_age_s(usage, step), usage.step_s) >= SOUND_S


def _decisions(usage: Usage) -> Plot:
    lines = []
    for outcome, look in OUTCOMES:
        total: int = getattr(usage.totals, outcome)
        if total or outcome in ALWAYS_SHOWN:
            values = rates(usage, attrgetter(outcome))
            lines.append(Line(outcome, look, values, area=look == "one", total=f"{total:,} in total"))
    return Plot("decisions", "Decisions per second", NO_REPORTS, lines, per_second, compact)


def _denied_by(usage: Usage) -> Plot:
    lines = [_denied_by_tier(usage, tier, look) for tier, look in TIERS]
    return Plot("tiers", "Denied per second, by tier", NO_REPORTS, lines, per_second, compact)


def _denied_by_tier(usage: Usage, tier: TierName, look: str) -> Line:
    values = rates(usage, lambda step: step.denied_by.get(tier, 0))
    return Line(tier, look, values, total=f"{usage.totals.denied_by.get(tier, 0):,} in total")


def _global_tokens(usage: Usage) -> Plot:
    tokens = [None if step.global_tokens is None else step.global_tokens / MICRO for step in usage.steps]
    lines = [
        Line("tokens", "one", tokens, area=True),
        Line("capacity", "five", [step.global_capacity for step in usage.steps]),
    ]
    off = any(step.replicas for step in usage.steps)
    empty = "The policy has no tier global." if off else NO_REPORTS
    return Plot("bucket", "Tokens in the global bucket", empty, lines, figures, compact, reduce=last)


def _store(usage: Usage) -> Plot:
    lines = [
        Line("p50", "one", [step.store_p50_s for step in usage.steps]),
        Line("p99", "two", [step.store_p99_s for step in usage.steps]),
    ]
    return Plot(
        "store", "Duration of store calls", "No calls in this range.", lines, seconds, seconds, reduce=max
    )


def _replicas(usage: Usage) -> Plot:
    reported = any(step.replicas for step in usage.steps)
    counts = [step.replicas if reported and _sound(usage, step) else None for step in usage.steps]
    lines = [Line("replicas", "one", counts)]
    return Plot("replicas", "Replicas", NO_REPORTS, lines, figures, compact, reduce=last, whole=True, least=1)


def marks(usage: Usage, axis: Axis) -> list[Mark]:
    """Returns the changes of the policy as marks."""
    return marks_on(
        axis,
        [
            (
                one.at_us,
                f"rev. {one.number}",
                f"Revision {one.number} by {isolated(one.author)}, {utc_time(one.at_us)}"
                + (f": {isolated(one.note)}" if one.note else ""),
            )
            for one in usage.revisions
        ],
    )

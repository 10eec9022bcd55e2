"""The figures at the top of the page Usage, and its table by API, made of an answer about usage."""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from ratelimitd.admin.panel.charts import FRESH, NOTHING, newest_of, paths
from ratelimitd.admin.panel.figures import figures, per_second, seconds, share
from ratelimitd.admin.panel.usage_charts import rates
from ratelimitd.control.usage_answers import ApiUsage, Usage
from ratelimitd.core.model import MICRO

APIS = 8
"""APIs that have a row of their own."""


class ApiRow(NamedTuple):
    """A row of the table by API. Widths are in percent of the longest bar; `trend` is data of an SVG path."""

    name: str
    others: int
    requests: int
    denied: int
    denied_share: str
    allowed_width: float
    denied_width: float
    trend: str


def api_rows(apis: Sequence[ApiUsage]) -> list[ApiRow]:
    """Returns the APIs with the most requests, and one row for all others."""
    shown = [(one.api, 0, one) for one in apis[:APIS]]
    rest = apis[APIS:]
    if len(rest) == 1:
        shown.append((rest[0].api, 0, rest[0]))
    elif rest:
        together = ApiUsage(
            api="",
            allowed=sum(one.allowed for one in rest),
            denied=sum(one.denied for one in rest),
            per_step=[sum(counts) for counts in zip(*(one.per_step for one in rest), strict=True)],
        )
        shown.append(("", len(rest), together))
    longest = max((one.allowed + one.denied for _, _, one in shown), default=0) or 1
    return [
        ApiRow(
            name=name,
            others=others,
            requests=one.allowed + one.denied,
            denied=one.denied,
            denied_share=share(one.denied, one.allowed + one.denied),
            allowed_width=one.allowed / longest * 100,
            denied_width=one.denied / longest * 100,
            trend=paths(one.per_step, max([1, *one.per_step]))[1],
        )
        for name, others, one in shown
    ]


class Tile(NamedTuple):
    """A figure at the top of the page. `look` is the class of its badge, or empty."""

    name: str
    value: str
    hint: str
    look: str = ""


def tiles(usage: Usage) -> list[Tile]:
    """Returns the newest figures, each with what the range says about it."""
    totals, found = usage.totals, list[Tile]()
    for outcome in ("allowed", "denied", "undecided"):
        count: int = getattr(totals, outcome)
        newest = newest_of(rates(usage, attrgetter(outcome)))
        found.append(
            Tile(
                name=outcome.capitalize(),
                value=NOTHING if newest is None else per_second(newest),
                hint=f"{count:,} in total, {share(count, totals.requests)}",
                look="bad" if outcome == "undecided" and newest else "",
            )
        )
    return [*found, _bucket_tile(usage), _store_tile(usage), *_degraded_tile(usage)]


def _degraded_tile(usage: Usage) -> list[Tile]:
    """Returns a tile if replicas decided from memory in this range, because the store could not."""
    count = usage.totals.degraded
    if not count:
        return []
    newest = newest_of(rates(usage, attrgetter("degraded")))
    value = NOTHING if newest is None else per_second(newest)
    hint = f"{count:,} in total, {share(count, usage.totals.requests)}, decided without the store"
    return [Tile("Degraded", value, hint, look="bad" if newest else "")]


def _bucket_tile(usage: Usage) -> Tile:
    step = next((one for one in reversed(usage.steps[-FRESH:]) if one.replicas), None)
    if step is None:
        return Tile("Global bucket", NOTHING, "no replica reported")
    if step.global_tokens is None or step.global_capacity is None:
        return Tile("Global bucket", "off", "the policy has no tier global")
    tokens = int(step.global_tokens / MICRO)
    return Tile("Global bucket", figures(tokens), f"tokens of {step.global_capacity:,}")


def _store_tile(usage: Usage) -> Tile:
    newest = newest_of([step.store_p99_s for step in usage.steps])
    value = NOTHING if newest is None else seconds(newest)
    hint = "no calls" if usage.store_p99_s is None else f"{seconds(usage.store_p99_s)} in the range"
    return Tile("Store, p99", value, hint)

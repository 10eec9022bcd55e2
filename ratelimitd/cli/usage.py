"""`ratelimitd usage`: what all replicas decided, as a table with sparklines."""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from ratelimitd.cli import output, watch
from ratelimitd.cli.options import NO_FLAGS, Json, StoreFlags, store_options
from ratelimitd.cli.sparkline import sparkline
from ratelimitd.cli.watch import Watch
from ratelimitd.control.usage_answers import Usage, UsageStep
from ratelimitd.core.tiers import TierName
from ratelimitd.display import number, printable, tokens
from ratelimitd.instants import iso_instant
from ratelimitd.usage.ranges import UsageRange

WIDTH = 24
"""Characters of a sparkline: with them a table fits into 80 columns."""

MAX_APIS = 10
"""APIs that are listed."""

_RANGES = "{}, {}, {} or {}".format(*UsageRange)


def _range(text: str) -> UsageRange:
    """Returns the range with this name. Raises typer.BadParameter."""
    try:
        return UsageRange(text.lower())
    except ValueError as error:
        raise typer.BadParameter(f"must be {_RANGES}, got {printable(text)!r}") from error


@store_options
def usage(
    over: Annotated[
        UsageRange,
        typer.Option(
            "--range", parser=_range, metavar="RANGE", help=f"Range of time that ends now: {_RANGES}."
        ),
    ] = UsageRange.QUARTER_HOUR,
    store: StoreFlags = NO_FLAGS,
    *,
    refresh: Watch = False,
    as_json: Json = False,
) -> None:
    """Show what all replicas decided: requests by outcome and by API, over time."""
    watch.show(store, lambda control: control.usage(over), print_usage, watch=refresh, as_json=as_json)


def print_usage(usage: Usage) -> None:
    """Prints the usage of a range."""
    for warning in usage.warnings:
        output.print_line(f"WARNING: {warning}", style="bold yellow")
    _print_state(usage)
    output.print_line("")
    _print_outcomes(usage)
    if usage.apis:
        output.print_line("")
        _print_apis(usage)
    for mark in usage.revisions:
        note = f": {mark.note}" if mark.note else ""
        output.print_line(
            f"revision {mark.number} at {iso_instant(mark.at_us)} by {mark.author or '-'}{note}"
        )


def _print_state(usage: Usage) -> None:
    reported = next((step for step in reversed(usage.steps) if step.replicas), None)
    bucket = None
    if reported is not None and reported.global_tokens is not None:
        bucket = f"{tokens(reported.global_tokens)} of {reported.global_capacity} tokens"
    durations = None
    if usage.store_p50_s is not None and usage.store_p99_s is not None:
        durations = f"p50 {_milliseconds(usage.store_p50_s)}, p99 {_milliseconds(usage.store_p99_s)}"
    output.print_fields(
        ("at", iso_instant(usage.at_us)),
        ("range", f"{usage.range.value} in steps of {usage.step_s} s"),
        ("replicas", max(step.replicas for step in usage.steps[-2:])),
        ("revision", None if reported is None else reported.revision),
        ("global", bucket),
        ("store", durations),
        ("requests", f"{usage.totals.requests}, of which {usage.totals.local} needed no call to the store"),
        ("degraded", _degraded(usage)),
        ("so far", f"{usage.cumulative.requests} requests since the store was set up"),
    )


def _degraded(usage: Usage) -> str | None:
    count = usage.totals.degraded
    return f"{count} were decided from memory, because the store could not decide" if count else None


def _print_outcomes(usage: Usage) -> None:
    rows = [
        _row(usage, "allowed", lambda step: step.allowed),
        *(_row(usage, f"denied by {tier.value}", _denied_by(tier)) for tier in TierName),
        _row(usage, "blocked", lambda step: step.blocked),
        _row(usage, "exempt", lambda step: step.exempt),
        _row(usage, "undecided", lambda step: step.undecided),
    ]
    output.print_table(("outcome", ">requests", ">last/s", ">peak/s", ">over time"), rows)


def _denied_by(tier: TierName) -> Callable[[UsageStep], int]:
    return lambda step: step.denied_by[tier]


def _row(usage: Usage, name: str, count: Callable[[UsageStep], int]) -> Sequence[object]:
    """Returns the row of an outcome. Rates and sparkline leave out steps that are not complete."""
    rates = [count(step) / usage.step_s for step in usage.steps if step.complete]
    total = sum(count(step) for step in usage.steps)
    return (name, total, _rate(rates[-1]), _rate(max(rates)), sparkline(rates, WIDTH))


def _print_apis(usage: Usage) -> None:
    rows = [
        (one.api, one.allowed, one.denied, sparkline(one.per_step[:-1], WIDTH))
        for one in usage.apis[:MAX_APIS]
    ]
    output.print_table(("api", ">allowed", ">denied", ">over time"), rows)
    if (more := len(usage.apis) - MAX_APIS) > 0:
        output.print_line(f"and {more} more; --json lists all")


def _rate(per_s: float) -> str:
    return number(per_s, 1)


def _milliseconds(seconds: float) -> str:
    return f"{number(seconds * 1000, 2)} ms"

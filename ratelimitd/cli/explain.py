"""`ratelimitd explain`: the decision that a request would get now, and the reason. It spends nothing."""

import typer

from ratelimitd.cli import output
from ratelimitd.cli.exits import Exit
from ratelimitd.cli.options import NO_FLAGS, Address, Json, Key, StoreFlags, store_options
from ratelimitd.cli.request_options import Context, Headers, Method, Path, User, request_spec
from ratelimitd.cli.store import with_control
from ratelimitd.control.answers import ExplainedRequest, ExplainedTier
from ratelimitd.display import duration, tier_notes, tokens


@store_options
def explain(
    *,
    path: Path,
    user: User = None,
    method: Method = "GET",
    header: Headers = None,
    context: Context = None,
    address: Address = None,
    key: Key = None,
    store: StoreFlags = NO_FLAGS,
    as_json: Json = False,
) -> None:
    """Show what a request would get now: the identity, the matching rules, each tier, and what changes it."""
    spec = request_spec(
        path=path, method=method, user=user, address=address, headers=header, context=context, key=key
    )
    explanation = with_control(store, lambda control: control.explain(spec))
    if as_json:
        output.print_json(explanation)
    else:
        _print(explanation)
    if explanation.outcome in {"denied", "blocked"}:
        raise typer.Exit(Exit.DENIED)


def _print(explanation: ExplainedRequest) -> None:
    allowed = explanation.outcome in {"allowed", "exempt"}
    output.print_line(f"{explanation.outcome}: {explanation.reason}", style=output.outcome_style(allowed))
    output.print_fields(
        ("identity", f"{explanation.identity.key} (by {explanation.identity.kind})"),
        ("route", explanation.route or "none matches"),
        ("override", explanation.override or "none"),
        ("cost", f"{tokens(explanation.cost)} from each tier" if explanation.tiers else None),
        ("in shadow", explanation.shadow and f"{explanation.shadow} would deny"),
        ("changes", _change(explanation)),
    )
    if explanation.tiers:
        output.print_line("")
        names = ("tier", ">tokens now", ">capacity", ">refill", ">wait", "bucket")
        output.print_table(names, map(_row, explanation.tiers))
        for note in tier_notes(explanation.tiers):
            output.print_line(note)


def _row(tier: ExplainedTier) -> tuple[object, ...]:
    return (
        f"{tier.name} (shadow)" if tier.shadow else tier.name,
        tokens(tier.tokens),
        tier.limit.capacity,
        output.rate(tier.limit),
        "never" if tier.retry_after_us is None else duration(tier.retry_after_us),
        tier.key,
    )


def _change(explanation: ExplainedRequest) -> str:
    """Says when the decision would be a different one."""
    if explanation.retry_after_us is not None:
        return (
            f"allowed in {duration(explanation.retry_after_us)}, if no other request spends tokens meanwhile"
        )
    if explanation.more is None or explanation.outcome == "denied":
        return "only with the policy"
    requests = "request" if explanation.more == 1 else "requests"
    return f"denied after {explanation.more} such {requests} at once"

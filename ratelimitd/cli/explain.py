"""`ratelimitd explain`: what a request would get now, and why. It spends nothing."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from ratelimitd.cli import tables
from ratelimitd.cli.exits import Exit
from ratelimitd.cli.store import RedisUrl, control_over
from ratelimitd.control.answers import ExplainedRequest
from ratelimitd.control.request_spec import RequestSpec
from ratelimitd.display import duration, tokens

Path = Annotated[str, typer.Option(help="As the client sends it; a query does not count.", metavar="PATH")]
User = Annotated[
    str | None,
    typer.Option(help="The value of the header that identifies.", metavar="USER", show_default=False),
]
Method = Annotated[str, typer.Option(help="The request's method.")]
Address = Annotated[str | None, typer.Option(help="The client's address.", metavar="IP", show_default=False)]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", help="A header; may be given again.", metavar="NAME=VALUE", show_default=False),
]
Context = Annotated[
    list[str] | None,
    typer.Option(
        help="What the route in Envoy attaches (context_extensions); may be given again.",
        metavar="KEY=VALUE",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as the admin service answers it.")]


def question_of(  # noqa: PLR0917 - what a command is given
    path: str,
    method: str,
    user: str | None,
    address: str | None,
    headers: Sequence[str] | None,
    context: Sequence[str] | None,
) -> RequestSpec:
    """The question in these options. A header that is given twice is joined with a comma, as Envoy does."""
    joined: dict[str, str] = {}
    for name, value in _pairs("--header", headers):
        earlier = joined.get(name.lower())
        joined[name.lower()] = value if earlier is None else f"{earlier},{value}"
    return RequestSpec(path, method, user, address, joined, dict(_pairs("--context", context)))


def _pairs(option: str, given: Sequence[str] | None) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in given or ()]
    for name, found, _ in pairs:
        if not (name and found):
            raise typer.BadParameter(f"must be NAME=VALUE, got {name + found!r}", param_hint=option)
    return [(name, value) for name, _, value in pairs]


def explain(  # noqa: PLR0917 - typer makes them flags
    path: Path,
    user: User = None,
    method: Method = "GET",
    header: Headers = None,
    context: Context = None,
    address: Address = None,
    redis_url: RedisUrl = None,
    *,
    as_json: Json = False,
) -> None:
    """Say what a request would get now: who is charged, which rule holds, each tier, and when it changes."""
    question = question_of(path, method, user, address, header, context)
    explanation = asyncio.run(_explained(redis_url, question))
    if as_json:
        tables.print_json(explanation)
    else:
        _print(explanation)
    if explanation.outcome in {"denied", "blocked"}:
        raise typer.Exit(Exit.DENIED)


async def _explained(redis_url: str | None, question: RequestSpec) -> ExplainedRequest:
    async with control_over(redis_url) as control:
        return await control.explain(question)


def _print(explanation: ExplainedRequest) -> None:
    allowed = explanation.outcome in {"allowed", "exempt"}
    style = "bold green" if allowed else "bold red"
    tables.say(f"{explanation.outcome}: {explanation.reason}", style=style)
    tables.print_fields(
        ("identity", f"{explanation.identity.key} (by {explanation.identity.kind})"),
        ("route", explanation.route or "none matches"),
        ("override", explanation.override or "none"),
        ("cost", f"{tokens(explanation.cost)} from each tier" if explanation.tiers else None),
        ("in shadow", explanation.shadow and f"{explanation.shadow} would deny"),
        ("changes", _change(explanation)),
    )
    if explanation.tiers:
        tables.say("")
        names = ("tier", ">tokens now", ">capacity", ">refill", ">wait", "bucket")
        tables.print_table(
            names,
            [
                (
                    f"{state.name} (shadow)" if state.shadow else state.name,
                    tokens(state.tokens),
                    state.limit.capacity,
                    f"{state.limit.refill_rate:.10g}/s",
                    duration(state.retry_after_us),
                    state.key,
                )
                for state in explanation.tiers
            ],
        )


def _change(explanation: ExplainedRequest) -> str:
    """When the answer would be another one."""
    if explanation.retry_after_us is not None:
        return f"allowed in {duration(explanation.retry_after_us)}, if nobody spends meanwhile"
    if explanation.more is None:
        return "not by waiting or spending, only with the policy"
    return f"denied after {explanation.more} such requests at once"

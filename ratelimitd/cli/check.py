"""`ratelimitd check`: one real Check, as Envoy asks it, of a running service."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ratelimitd.address import parse_address
from ratelimitd.cli import tables
from ratelimitd.cli.exits import Exit
from ratelimitd.cli.explain import Address, Context, Headers, Json, Method, Path, User, question_of
from ratelimitd.cli.store import chosen

if TYPE_CHECKING:  # gRPC, which no other command here needs
    from ratelimitd.transport.client import CheckReply


def _target(text: str | None) -> str | None:
    if text is not None:
        try:
            parse_address(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return text


def check(  # noqa: PLR0917 - typer makes them flags
    path: Path,
    user: User = None,
    method: Method = "GET",
    header: Headers = None,
    context: Context = None,
    address: Address = None,
    target: Annotated[
        str | None,
        typer.Option(
            callback=_target,
            help="The service: HOST:PORT, [IPV6]:PORT or unix:/path. [default: the setting listen]",
            metavar="TARGET",
            show_default=False,
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(help="How long to wait for the answer, in seconds.", metavar="SECONDS", min=0)
    ] = 2.0,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Spend nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Ask a running service about a request, as Envoy does. It spends what the request costs."""
    from ratelimitd.transport.client import ask  # noqa: PLC0415 - gRPC, which no other command here needs

    settings = chosen(None)
    question = question_of(path, method, user, address, header, context).request(settings)
    asked = asyncio.run(ask(target or settings.listen, question, dry_run=dry_run, timeout_s=timeout_s))
    if as_json:
        tables.print_json(asked)
    else:
        _print(asked)
    # A refusal because the store is away says nothing about limits.
    undecided = asked.metadata.get("outcome") == "undecided"
    if asked.outcome == "error" or (asked.outcome == "denied" and undecided):
        raise typer.Exit(Exit.FAILED)
    if asked.outcome == "denied":
        raise typer.Exit(Exit.DENIED)


def _print(asked: "CheckReply") -> None:
    allowed = asked.outcome == "allowed"
    status = "" if allowed else f", HTTP {asked.http_status}"
    tables.say(f"{asked.outcome}{status} ({asked.grpc_code})", style="bold green" if allowed else "bold red")
    if asked.body:
        tables.say(asked.body)
    if asked.headers:
        tables.say("")
        tables.print_table(("header", "value"), asked.headers.items())
    if asked.metadata:
        tables.say("")
        tables.print_table(("metadata", "value"), asked.metadata.items())

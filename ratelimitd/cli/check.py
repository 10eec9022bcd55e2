"""`ratelimitd check`: sends one Check to a running service, as Envoy does."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from ratelimitd.address import CLIENT_TIMEOUT_S, parse_address
from ratelimitd.cli import output
from ratelimitd.cli.exits import Exit
from ratelimitd.cli.options import Address, Json
from ratelimitd.cli.request_options import Context, Headers, Method, Path, User, request_spec
from ratelimitd.cli.store import load_settings
from ratelimitd.process import event_loop
from ratelimitd.tls_settings import check_tls

if TYPE_CHECKING:  # importing gRPC takes longer than the other commands need
    from ratelimitd.transport.client import CheckReply


def _checked_target(text: str | None) -> str | None:
    if text is not None:
        try:
            parse_address(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return text


Target = Annotated[
    str | None,
    typer.Option(
        callback=_checked_target,
        help="Address of the service: HOST:PORT, [IPV6]:PORT or unix:/path. [default: the setting listen]",
        metavar="TARGET",
        show_default=False,
    ),
]


def check(
    *,
    path: Path,
    user: User = None,
    method: Method = "GET",
    header: Headers = None,
    context: Context = None,
    address: Address = None,
    target: Target = None,
    timeout_s: Annotated[
        float, typer.Option(help="Time limit for the answer, in seconds.", metavar="SECONDS", min=0)
    ] = CLIENT_TIMEOUT_S,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Spend nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Send one Check to a running service, as Envoy does. It spends what the request costs."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # grpc would print lines about failed handshakes
    from ratelimitd.transport.client import check_service  # noqa: PLC0415 - see above

    settings = load_settings()
    spec = request_spec(path=path, method=method, user=user, address=address, headers=header, context=context)
    request = spec.request(settings)
    reply = event_loop.run(
        check_service(
            target or settings.listen,
            request,
            dry_run=dry_run,
            timeout_s=timeout_s,
            tls=check_tls(settings),
        )
    )
    if as_json:
        output.print_json(reply)
    else:
        _print(reply)
    # An undecided request is refused because of the store, not because of limits.
    undecided = reply.metadata.get("outcome") == "undecided"
    if reply.outcome == "error" or (reply.outcome == "denied" and undecided):
        raise typer.Exit(Exit.FAILED)
    if reply.outcome == "denied":
        raise typer.Exit(Exit.DENIED)


def _print(reply: "CheckReply") -> None:
    allowed = reply.outcome == "allowed"
    status = "" if allowed else f", HTTP {reply.http_status}"
    output.print_line(f"{reply.outcome}{status} ({reply.grpc_code})", style=output.outcome_style(allowed))
    if reply.body:
        output.print_line(reply.body)
    for name, pairs in (("header", reply.headers), ("metadata", reply.metadata)):
        if pairs:
            output.print_line("")
            output.print_table((name, "value"), pairs.items())

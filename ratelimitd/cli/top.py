"""`ratelimitd top`: the users and addresses with the most requests on all replicas."""

from functools import partial
from typing import Annotated

import typer

from ratelimitd.cli import output, watch
from ratelimitd.cli.options import NO_FLAGS, Json, StoreFlags, store_options
from ratelimitd.cli.watch import Watch
from ratelimitd.control.top_users import MOST
from ratelimitd.control.usage_answers import TopUser, TopUsers
from ratelimitd.core.model import MICRO
from ratelimitd.display import duration, plural

LIMIT = 20
"""Users that a table shows by default: with them it fits into a terminal."""


@store_options
def top(
    *,
    denied: Annotated[bool, typer.Option("--denied", help="Count only denied requests.")] = False,
    limit: Annotated[
        int, typer.Option(help="Maximum number of users.", min=1, max=MOST, metavar="NUMBER")
    ] = LIMIT,
    store: StoreFlags = NO_FLAGS,
    refresh: Watch = False,
    as_json: Json = False,
) -> None:
    """Show the users and addresses with the most requests, and the error of each count."""
    watch.show(
        store,
        lambda control: control.top_users(denied=denied, most=limit),
        print_top_users,
        watch=refresh,
        as_json=as_json,
    )


def print_top_users(found: TopUsers) -> None:
    """Prints top users as a table."""
    for warning in found.warnings:
        output.print_line(f"WARNING: {warning}", style="bold yellow")
    if found.mode == "off":
        output.print_line("the replicas count no users, because RATELIMITD_TOP_USERS is off")
    request = "denied request" if found.denied else "request"
    window = duration(found.window_s * MICRO)
    output.print_line(f"{plural(found.total, request)} in the last {window}")
    if not found.users:
        return
    names = ("#", "user or address", ">requests", ">error", ">share", ">per second", "key")
    output.print_table(names, map(partial(_row, found), range(len(found.users))))
    output.print_line(
        "A count may be too high by its error. "
        f"Each other user has at most {plural(found.error_bound, request)}."
    )
    _print_next_steps(found.users)


def _row(found: TopUsers, at: int) -> tuple[object, ...]:
    user = found.users[at]
    share, rate = f"{100 * found.share(user):.1f} %", f"{found.rate_per_s(user):.2f}"
    return (at + 1, user.name, user.requests, user.error, share, rate, user.key)


def _print_next_steps(users: list[TopUser]) -> None:
    """Prints commands for the first user whose key is known. Keys need no quoting in a shell."""
    key = next((user.key for user in users if user.kind != "hashed"), None)
    if key is None:
        output.print_line("The names are hashed (RATELIMITD_TOP_USERS), so they lead to no buckets.")
        return
    output.print_line(
        f"Look further: ratelimitd bucket show --key={key}; ratelimitd explain --key={key} --path=/; "
        f"ratelimitd bucket reset --key={key}"
    )

"""`ratelimitd bucket`: shows and resets the buckets of a user or an address."""

import sys
from typing import Annotated

import typer

from ratelimitd.cli import output
from ratelimitd.cli.exits import exit_status_help
from ratelimitd.cli.options import NO_FLAGS, Address, Json, Key, StoreFlags, store_options
from ratelimitd.cli.store import with_control
from ratelimitd.control.answers import BucketList, BucketState, ResetBuckets
from ratelimitd.control.request_spec import Subject
from ratelimitd.display import bucket_notes, printable, tokens
from ratelimitd.instants import iso_instant

app = typer.Typer(
    name="bucket",
    help="Show or reset the buckets of a user or an address.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

User = Annotated[
    str | None, typer.Argument(help="Value of the identity header.", metavar="USER", show_default=False)
]


@app.command(epilog=exit_status_help())
@store_options
def show(
    user: User = None,
    address: Address = None,
    key: Key = None,
    store: StoreFlags = NO_FLAGS,
    *,
    as_json: Json = False,
) -> None:
    """Show the current buckets of a user or an address. A bucket that is not listed is full."""
    subject = Subject(user, address, key)
    states = with_control(store, lambda control: control.buckets(subject))
    if as_json:
        output.print_json(BucketList(buckets=states))
    elif states:
        names = ("bucket", ">tokens now", ">capacity", ">refill", "counted at")
        output.print_table(names, map(_row, states))
        for note in bucket_notes(states):
            output.print_line(note)
    else:
        output.print_line(f"{subject.name} has no bucket in the store, so all of them are full")


def _row(state: BucketState) -> tuple[object, ...]:
    return (
        state.key,
        tokens(state.tokens),
        "off" if state.limit is None else state.limit.capacity,
        "off" if state.limit is None else output.rate(state.limit),
        "-" if state.not_a_bucket else iso_instant(state.last_us),
    )


@app.command(epilog=exit_status_help())
@store_options
def reset(
    user: User = None,
    address: Address = None,
    key: Key = None,
    store: StoreFlags = NO_FLAGS,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Make all buckets of a user or an address full. On a terminal, ask for confirmation first."""
    subject = Subject(user, address, key)
    subject.identity()  # reports a bad user or address before it asks for confirmation
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Make all buckets of {printable(subject.name)} full?", abort=True, err=True)
    keys = with_control(store, lambda control: control.reset(subject))
    if as_json:
        output.print_json(ResetBuckets(deleted=keys))
        return
    for deleted in keys:
        output.print_line(f"{deleted} is full")
    if not keys:
        output.print_line(f"{subject.name} has no bucket in the store, so all of them are full already")

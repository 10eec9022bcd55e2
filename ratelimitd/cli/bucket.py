"""`ratelimitd bucket`: what somebody has left, and how to give it all back."""

import asyncio
import sys
from typing import Annotated

import typer

from ratelimitd.cli import tables
from ratelimitd.cli.exits import told
from ratelimitd.cli.explain import Address, Json
from ratelimitd.cli.store import RedisUrl, control_over
from ratelimitd.control.answers import BucketList, BucketState, ResetBuckets
from ratelimitd.control.request_spec import Subject
from ratelimitd.display import tokens
from ratelimitd.instants import iso_instant

app = typer.Typer(
    name="bucket",
    help="Look at the buckets of a user or an address, or make them full.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

User = Annotated[
    str | None,
    typer.Argument(help="The value of the header that identifies.", metavar="USER", show_default=False),
]


def _name(who: Subject) -> str:
    return who.user if who.user is not None else who.address or ""


@app.command(epilog=told())
def show(
    user: User = None, address: Address = None, redis_url: RedisUrl = None, *, as_json: Json = False
) -> None:
    """Show the buckets of a user, or of an --address, as they are now. One that is not shown is full."""
    who = Subject(user, address)
    states = asyncio.run(_shown(redis_url, who))
    if as_json:
        tables.print_json(BucketList(buckets=states))
    elif states:
        tables.print_table(("bucket", ">tokens now", ">capacity", ">refill", "counted at"), map(_row, states))
    else:
        tables.say(f"{_name(who)} has no bucket in the store: every one is full")


async def _shown(redis_url: str | None, who: Subject) -> list[BucketState]:
    async with control_over(redis_url) as control:
        return await control.buckets(who)


def _row(state: BucketState) -> tuple[object, ...]:
    capacity, refill = (
        ("off", "off")
        if state.limit is None
        else (
            str(state.limit.capacity),
            f"{state.limit.refill_rate:.10g}/s",
        )
    )
    return (state.key, tokens(state.tokens), capacity, refill, iso_instant(state.last_us))


@app.command(epilog=told())
def reset(
    user: User = None,
    address: Address = None,
    redis_url: RedisUrl = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Make every bucket of a user, or of an --address, full. On a terminal it asks first."""
    who = Subject(user, address)
    who.identity()  # what is wrong with it is said before anything is asked
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Make every bucket of {tables.printable(_name(who))} full?", abort=True, err=True)
    keys = asyncio.run(_reset(redis_url, who))
    if as_json:
        tables.print_json(ResetBuckets(deleted=keys))
        return
    for key in keys:
        tables.say(f"{key} is full")
    if not keys:
        tables.say(f"{_name(who)} has no bucket in the store: every one is full already")


async def _reset(redis_url: str | None, who: Subject) -> list[str]:
    async with control_over(redis_url) as control:
        return await control.reset(who)

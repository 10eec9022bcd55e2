"""Shows an answer once, or again and again until Ctrl-C."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from ratelimitd.cli import output
from ratelimitd.cli.options import StoreFlags
from ratelimitd.cli.store import with_control
from ratelimitd.control.control import Control
from ratelimitd.errors import StoreError

REFRESH_S = 5.0
"""Time between two answers: replicas report as often."""

Watch = Annotated[bool, typer.Option("--watch", help="Show it again every 5 s, until Ctrl-C.")]

T = TypeVar("T")


def show(
    store: StoreFlags,
    read: Callable[[Control], Awaitable[T]],
    show_one: Callable[[T], None],
    *,
    watch: bool,
    as_json: bool,
) -> None:
    """Prints what `read` returns with `show_one`, or as JSON.

    With `watch` a terminal always shows the last answer; elsewhere answers follow each other, and each is one
    line of JSON. An error of the store is printed, and the next attempt follows.
    """
    if not watch:
        found = with_control(store, read)
        if as_json:
            output.print_json(found)
        else:
            show_one(found)
        return

    async def repeat(control: Control) -> None:
        while True:
            await _show_next(control, read, show_one, as_json=as_json)
            await asyncio.sleep(REFRESH_S)

    try:
        with_control(store, repeat)
    except KeyboardInterrupt:  # the usual end
        if sys.stdout.isatty():
            typer.echo()


async def _show_next(
    control: Control,
    read: Callable[[Control], Awaitable[T]],
    show_one: Callable[[T], None],
    *,
    as_json: bool,
) -> None:
    failure = ""
    try:
        found = await read(control)
    except StoreError as error:
        failure = str(error)
    if not as_json and not output.clear_screen():
        typer.echo()
    if failure:
        output.print_warning(failure)
    elif as_json:
        output.print_json(found, indent=None)
    else:
        show_one(found)
    sys.stdout.flush()

"""How answers look: tables for people, JSON for programs, warnings on standard error.

Nothing is cut off: on a terminal a long value goes on in the next line, and in a pipe each row is one line.
What others wrote into the store cannot steer the terminal.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer
from pydantic import TypeAdapter

from ratelimitd.errors import Problem

if TYPE_CHECKING:  # rich is imported where it prints: a service, which prints no tables, starts without it
    from rich.console import Console

PIPE_COLUMNS = 100_000
"""As wide as a row may be where no terminal is: a program reads it by lines."""


def print_json(answer: object) -> None:
    """Print an answer as the admin service gives it."""
    typer.echo(TypeAdapter(type(answer)).dump_json(answer, indent=2, by_alias=True).decode())


def say(text: str, *, style: str | None = None) -> None:
    """One line for people, however long; a style holds on a terminal only."""
    _console().print(printable(text), style=style, soft_wrap=True)


def warn(text: str) -> None:
    """One line on standard error: the command goes on."""
    typer.echo(f"ratelimitd: warning: {printable(text)}", err=True)


def warn_of(advice: Iterable[Problem]) -> None:
    """What the author of a policy may have missed."""
    for problem in advice:
        warn(str(problem))


def print_fields(*fields: tuple[str, object]) -> None:
    """Names and values, one pair a line; a value of None is left out."""
    from rich.table import Table  # noqa: PLC0415 - see above

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value is not None:
            table.add_row(name, printable(str(value)))
    _console().print(table)


def print_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table. Names that begin with > are those of numbers, to the right and in one piece."""
    from rich.table import Table  # noqa: PLC0415 - see above

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    cells = [[printable(str(value)) for value in row] for row in rows]
    least = 0
    for column, name in enumerate(names):
        title = name.removeprefix(">")
        if title == name:
            width = len(title)
            table.add_column(title, overflow="fold", min_width=width)
        else:
            width = max(len(text) for text in (title, *(row[column] for row in cells)))
            table.add_column(title, justify="right", no_wrap=True)
        least += width + 2
    for row in cells:
        table.add_row(*row)
    console = _console()
    # On a terminal narrower than this, its own line breaks hide less than a column without any width.
    console.width = max(console.width, least)
    console.print(table)


def _console() -> "Console":
    from rich.console import Console  # noqa: PLC0415 - see above

    columns = None if sys.stdout.isatty() else PIPE_COLUMNS
    return Console(width=columns, markup=False, highlight=False, emoji=False)


def printable(text: str) -> str:
    """The text with every character that is no visible one, such as an escape, written out as JSON does."""
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)

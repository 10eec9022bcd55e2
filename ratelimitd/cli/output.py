"""Prints results: tables for people, JSON for programs, warnings on standard error.

Nothing is cut off: a terminal wraps long values, and in a pipe each row is one line. Control characters in
values from the store are escaped, so they cannot control the terminal.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer
from pydantic import TypeAdapter

from ratelimitd.core.model import Limit
from ratelimitd.display import printable
from ratelimitd.errors import Problem

# rich is imported only where it is used: the service prints no tables and starts faster without it.
if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 100_000
"""Width where standard output is not a terminal: no row is wrapped, so programs can read lines."""


def print_json(answer: object, *, indent: int | None = 2) -> None:
    """Prints an answer as the admin API does; without an indent on one line."""
    typer.echo(TypeAdapter(type(answer)).dump_json(answer, indent=indent, by_alias=True).decode())


def clear_screen() -> bool:
    """Empties the terminal, so that the next output takes the place of the last. Returns whether it did."""
    console = _console()
    if not console.is_terminal or console.is_dumb_terminal:
        return False
    console.clear()
    return True


def print_line(text: str, *, style: str | None = None) -> None:
    """Prints one line, however long. The style applies on a terminal only."""
    _console().print(printable(text), style=style, soft_wrap=True)


def outcome_style(allowed: bool) -> str:  # noqa: FBT001 - the only argument
    """Returns the style of a decision: green or red."""
    return "bold green" if allowed else "bold red"


def print_warning(text: str) -> None:
    """Prints one line on standard error."""
    typer.echo(f"ratelimitd: warning: {printable(text)}", err=True)


def print_warnings(advice: Iterable[Problem]) -> None:
    """Prints each piece of advice as a warning."""
    for problem in advice:
        print_warning(str(problem))


def print_fields(*fields: tuple[str, object]) -> None:
    """Prints names and values, one pair per line. A value of None is left out."""
    from rich.table import Table  # noqa: PLC0415 - see above

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value is not None:
            table.add_row(name, printable(str(value)))
    _console().print(table)


def print_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table. A name that begins with > marks a column of numbers: right-aligned, never wrapped."""
    from rich.table import Table  # noqa: PLC0415 - see above

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    cells = [[printable(str(value)) for value in row] for row in rows]
    min_width = 0
    for column, name in enumerate(names):
        title = name.removeprefix(">")
        if title == name:
            width = len(title)
            table.add_column(title, overflow="fold", min_width=width)
        else:
            width = max(len(text) for text in (title, *(row[column] for row in cells)))
            table.add_column(title, justify="right", no_wrap=True)
        min_width += width + 2
    for row in cells:
        table.add_row(*row)
    console = _console()
    # On a narrower terminal, lines that it wraps itself are easier to read than columns without any width.
    console.width = max(console.width, min_width)
    console.print(table)


def _console() -> "Console":
    from rich.console import Console  # noqa: PLC0415 - see above

    columns = None if sys.stdout.isatty() else PIPE_COLUMNS
    return Console(width=columns, markup=False, highlight=False, emoji=False)


def rate(limit: Limit) -> str:
    """Returns the refill rate, such as 5/s."""
    return f"{limit.refill_rate:.10g}/s"

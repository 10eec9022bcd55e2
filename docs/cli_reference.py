"""Write the options of every command into docs/cli.md, from the commands themselves.

Run it with .venv/bin/python docs/cli_reference.py. With --check it writes nothing, and exits with status 1
when the document is out of date.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from ratelimitd.cli import main

DOCUMENT = Path(__file__).with_name("cli.md")
COMMON = {"as_json", "redis_url"}
"""Options of every command for operators, which the document describes once."""

_SECTION = re.compile(
    r"(?P<heading>^### `ratelimitd (?P<name>[a-z ]+)`\n(?:(?!^#).*\n)*?<!-- options -->\n)"
    r"(?:(?!^#).*\n)*?(?P<end><!-- end -->\n)",
    re.MULTILINE,
)


def updated(text: str) -> str:
    """Return the document with the current options of the commands."""
    commands = dict(_commands())
    return _SECTION.sub(lambda found: found["heading"] + _table(commands[found["name"]]) + found["end"], text)


def _commands() -> Iterator[tuple[str, Any]]:
    root = get_command(main.app)
    assert isinstance(root, TyperGroup)  # noqa: S101 - for mypy
    for name, command in root.commands.items():
        if isinstance(command, TyperGroup):
            for inner, one in command.commands.items():
                yield f"{name} {inner}", one
        else:
            yield name, command


def _table(command: Any) -> str:
    names = {one.name for one in command.params}
    hidden = COMMON if "as_json" in names else set()
    rows = [_row(one) for one in command.params if one.name not in hidden]
    return "\n".join(["| option | meaning |", "|---|---|", *rows, ""])


def _row(parameter: Any) -> str:
    meaning = str(parameter.help or "").strip()
    if parameter.required:
        meaning += " Required."
    elif getattr(parameter, "show_default", False) and parameter.default not in {None, False}:
        meaning += f" [default: {parameter.default}]"
    if parameter.envvar:
        meaning += f" [env: {parameter.envvar}]"
    return f"| `{_name(parameter)}` | {re.sub(' +', ' ', meaning)} |"


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return parameter.metavar or str(parameter.name).upper()
    names = ", ".join(parameter.opts)
    value = "" if getattr(parameter, "is_flag", False) else " " + (parameter.metavar or "VALUE")
    return names + value


def run(arguments: list[str]) -> int:
    """Update the document, or check it; return the exit status."""
    before = DOCUMENT.read_text()
    after = updated(before)
    if arguments == ["--check"]:
        return int(before != after)
    DOCUMENT.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

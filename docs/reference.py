"""Write the settings, and the options and exit statuses of the commands, into README.md and docs/.

Run it with .venv/bin/python docs/reference.py. With --check it writes nothing, and exits with status 1 when a
document is out of date.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from ratelimitd.cli import main
from ratelimitd.cli.exits import MEANINGS, Exit
from ratelimitd.cli.options import STORE_SETTINGS
from ratelimitd.settings import Settings, env_name

ROOT = Path(__file__).parents[1]
COMMON = {"as_json", *STORE_SETTINGS}
"""Options of every command for operators, which the document describes once."""

IMPORTANT = (
    "listen",
    "transport",
    "redis_url",
    "store_timeout_ms",
    "on_store_error",
    "identity",
    "address_header",
    "log_format",
    "metrics_listen",
    "admin_key_file",
)
"""Settings in the table of README.md."""

_SECTION = re.compile(
    r"(?P<heading>^### `ratelimitd (?P<name>[a-z ]+)`\n(?:(?!^#).*\n)*?<!-- options -->\n)"
    r"(?:(?!^#).*\n)*?(?P<end><!-- end -->\n)",
    re.MULTILINE,
)


def with_commands(text: str) -> str:
    """Return docs/cli.md with the current options of the commands, and the meanings of the exit statuses."""
    commands = dict(_commands())
    text = _table_replaced(text, "| status | meaning |", [f"| {one:d} | {MEANINGS[one]} |" for one in Exit])
    return _SECTION.sub(lambda found: found["heading"] + _table(commands[found["name"]]) + found["end"], text)


def with_settings(text: str) -> str:
    """Return docs/settings.md with the current table of settings."""
    return _with_settings(text, Settings.model_fields)


def with_important_settings(text: str) -> str:
    """Return README.md with the current table of the most important settings."""
    return _with_settings(text, IMPORTANT)


def _with_settings(text: str, names: Iterable[str]) -> str:
    rows = []
    for name in names:
        field = Settings.model_fields[name]
        default = str(getattr(field.default, "value", field.default))
        rows.append(f"| `{env_name(name)}` | {default and f'`{default}`'} | {field.description} |")
    return _table_replaced(text, "| variable | default | meaning |", rows)


def _table_replaced(text: str, head: str, rows: list[str]) -> str:
    """Return the text with these rows in the table below `head`."""
    before, found, rest = text.partition(f"{head}\n")
    lines = rest.splitlines(keepends=True)
    after = next(at for at, line in enumerate(lines) if not line.startswith("|"))
    return before + found + lines[0] + "".join(f"{row}\n" for row in rows) + "".join(lines[after:])


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
    elif getattr(parameter, "show_default", False) and parameter.default not in {None, False, ""}:
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


DOCUMENTS = {
    "README.md": with_important_settings,
    "docs/settings.md": with_settings,
    "docs/cli.md": with_commands,
}


def run(arguments: list[str]) -> int:
    """Update the documents, or check them; return the exit status."""
    stale = 0
    for name, update in DOCUMENTS.items():
        before = (ROOT / name).read_text()
        after = update(before)
        stale |= before != after
        if arguments != ["--check"]:
            (ROOT / name).write_text(after)
    return int(stale) if arguments == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

"""A unified diff, line by line, as a page shows it: by sign and by colour, for not everybody sees both."""

from typing import NamedTuple


class DiffLine(NamedTuple):
    """A line. `kind` is `added`, `removed`, `same`, or `gap` where unchanged lines are left out."""

    kind: str
    text: str


_KINDS = {"+": "added", "-": "removed", " ": "same"}


def diff_lines(unified: str) -> list[DiffLine]:
    """The lines of a unified diff without its two headers; none when it is empty."""
    lines = []
    for line in unified.splitlines()[2:]:
        if line.startswith("@@"):
            lines.append(DiffLine("gap", "…"))
        else:
            lines.append(DiffLine(_KINDS[line[:1]], line[1:]))
    return lines[1:] if lines and lines[0].kind == "gap" else lines

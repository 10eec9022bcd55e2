"""Draws a series of numbers as one line of characters."""

import sys
from collections.abc import Sequence
from itertools import pairwise

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-:=+*#"


def sparkline(values: Sequence[float], width: int) -> str:
    """Returns at most `width` characters, oldest value first; higher ones stand for larger values.

    Where there are more values, neighbours share a character, which shows their mean. Only 0 has the lowest
    character. The characters are ASCII if standard output cannot show others.
    """
    columns = min(width, len(values))
    bounds = [at * len(values) // columns for at in range(columns + 1)] if columns else [0]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
    highest = max(means, default=0)
    characters = _characters()
    top = len(characters) - 1
    return "".join(characters[1 + round(mean / highest * (top - 1)) if mean > 0 else 0] for mean in means)


def _characters() -> str:
    try:
        _BLOCKS.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return _ASCII
    return _BLOCKS

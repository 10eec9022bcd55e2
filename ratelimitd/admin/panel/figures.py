"""Numbers, rates and durations as the charts show them: with about three significant digits."""

from ratelimitd.display import number

SMALLEST = 0.001
"""Smaller numbers are shown as less than this."""

MANY = 1e6
"""Numbers from here on have a unit, so that they fit in a figure on a phone."""

_DECIMALS = ((10, 1), (0.1, 2), (0.01, 3), (0, 4))
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def figures(value: float) -> str:
    """Returns a number with two or three significant digits, or all up to a million: 0.25, 1,234, 1.23M."""
    if value >= MANY:
        return compact(value)
    if value >= 100 or value == int(value):  # noqa: PLR2004 - three digits
        return f"{value:,.0f}"
    if value < SMALLEST:
        return f"< {SMALLEST:g}"
    decimals = next(decimals for least, decimals in _DECIMALS if value >= least)
    return number(value, decimals)


def compact(value: float) -> str:
    """Returns a number in about five characters: 250, 2.5k, 40M."""
    size, unit = next((one for one in _UNITS if value >= one[0] * 0.9995), (1, ""))
    return f"{value / size:.3g}{unit}"


def per_second(value: float) -> str:
    """Returns a rate as text: 12.5/s."""
    return f"{figures(value)}/s"


def seconds(value: float) -> str:
    """Returns a duration with a fitting unit: 0 s, 850 µs, 1.2 ms, 2 s."""
    for size, unit in ((1e-3, "µs"), (1.0, "ms")):
        if 0 < value < size * 0.9995:
            return f"{value / size * 1000:.3g} {unit}"
    return f"{value:.3g} s"


def share(part: int, whole: int) -> str:
    """Returns a part in percent: 0 %, 0.3 %, 12 %. A line does not break before the sign."""
    percent = part / whole * 100 if whole else 0.0
    text = f"{max(percent, 0.1):.1f}" if 0 < percent < 10 else f"{percent:.0f}"  # noqa: PLR2004 - two digits
    return f"{text}\N{NO-BREAK SPACE}%"

"""Templates -> pages. Whatever goes into one is escaped, and a name that a template misses is an error."""

import hashlib
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ratelimitd import __version__
from ratelimitd.admin.panel import session
from ratelimitd.admin.panel.session import Visitor
from ratelimitd.core.model import MICRO, Limit

FOLDER = Path(__file__).parent

NAVIGATION = (
    ("/admin", "Limits"),
    ("/admin/edit", "Policy text"),
    ("/admin/history", "History"),
    ("/admin/replicas", "Replicas"),
    ("/admin/explain", "Explain"),
    ("/admin/buckets", "Buckets"),
)

_PARTS_S = (("d", 86_400), ("h", 3600), ("min", 60))


def page(
    request: Request, visitor: Visitor, template: str, *, status: int = HTTPStatus.OK, **context: object
) -> HTMLResponse:
    """A page from a template."""
    html = _TEMPLATES.get_template(template).render(
        visitor=visitor, flash=session.said(request), here=request.url.path, **context
    )
    return HTMLResponse(html, status)


def instant(at_us: int) -> str:
    """An instant in us since the epoch: 2026-01-31 12:00:00 UTC."""
    try:
        return f"{datetime.fromtimestamp(at_us // MICRO, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):  # somebody's hand may write any number into the store
        return "unknown"


def tokens(micro: int) -> str:
    """Microtokens in tokens, with three decimals at most, never rounded up."""
    return number(micro // 1000 / 1000, 3)


def number(value: float, decimals: int = 6) -> str:
    """A number as a person writes it: 5, 0.25, 1000000."""
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(us: int | None, decimals: int = 3) -> str:
    """How long something takes, in its two greatest units: 1.5 s, 3 min 20 s, 11 d 13 h.

    Its last digit is rounded up: who waits so long has waited enough.
    """
    if us is None:
        return "none"
    digit_us = MICRO // 10**decimals
    us = -(-us // digit_us) * digit_us
    if us < 60 * MICRO:
        return f"{number(us / MICRO, decimals)} s"
    left_s, found = -(-us // MICRO), list[tuple[int, str]]()
    for unit, unit_s in (*_PARTS_S, ("s", 1)):
        count, left_s = divmod(left_s, unit_s)
        if count or found:
            found.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in found[:2] if count)


def limit(of: Limit | None) -> str:
    """A limit in words."""
    return "off" if of is None else f"{of.capacity}, refilled by {number(of.refill_rate)}/s"


def plural(count: int, one: str, many: str = "") -> str:
    """A count and what is counted: 1 route, 2 routes."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def _content(folder: Path) -> str:
    files = sorted(folder.iterdir())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


_TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "instant": instant,
    "tokens": tokens,
    "number": number,
    "duration": duration,
    "limit": limit,
    "plural": plural,
}
_TEMPLATES.globals |= {
    "navigation": NAVIGATION,
    "version": __version__,
    # Another content has another address, so no browser shows an old one.
    "static": {
        name: f"/admin/static/{name}?{_content(FOLDER / 'static')}"
        for name in ("panel.css", "panel.js", "icon.svg")
    },
    "max_name": session.MAX_NAME,
}

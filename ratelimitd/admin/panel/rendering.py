"""Renders templates to pages. Every value is escaped, and a name that is missing raises an error."""

import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ratelimitd import __version__
from ratelimitd.admin.panel import session
from ratelimitd.admin.panel.session import Visitor
from ratelimitd.core.model import Limit
from ratelimitd.display import (
    bucket_notes,
    duration,
    number,
    plural,
    printable,
    tier_notes,
    tokens,
    utc_time,
)

FOLDER = Path(__file__).parent

MAX_SHOWN = 80
MAX_TITLE = 2000
"""Characters of a text from outside that a page shows, and that its tooltip has."""

NAVIGATION = (
    ("/admin", "Usage"),
    ("/admin/top", "Top users"),
    ("/admin/limits", "Limits"),
    ("/admin/edit", "Policy text"),
    ("/admin/history", "History"),
    ("/admin/replicas", "Replicas"),
    ("/admin/explain", "Explain"),
    ("/admin/buckets", "Buckets"),
)


def render_page(
    request: Request, visitor: Visitor, template: str, *, status: int = HTTPStatus.OK, **context: object
) -> HTMLResponse:
    """Returns the page that a template makes of `context`."""
    html = _TEMPLATES.get_template(template).render(
        visitor=visitor, flash=session.take_flash(request), here=request.url.path, **context
    )
    return HTMLResponse(html, status)


def render_fragment(request: Request, visitor: Visitor, template: str, **context: object) -> HTMLResponse:
    """Returns a part of a page that a script asks for. It leaves the session as it is, message included.

    So it sets no cookie: one that arrives after the visitor signed out would sign the visitor in again.
    """
    html = _TEMPLATES.get_template(template).render(visitor=visitor, here=request.url.path, **context)
    return HTMLResponse(html)


class DiffLine(NamedTuple):
    """A line of a diff. `kind` is `added`, `removed`, `same`, or `gap` where unchanged lines are left out."""

    kind: str
    text: str


_DIFF_KINDS = {"+": "added", "-": "removed", " ": "same"}


def diff_lines(unified: str) -> list[DiffLine]:
    """Returns the lines of a unified diff without its two header lines. An empty diff has none."""
    lines = []
    for line in unified.splitlines()[2:]:
        if line.startswith("@@"):
            lines.append(DiffLine("gap", "…"))
        else:
            lines.append(DiffLine(_DIFF_KINDS[line[:1]], line[1:]))
    return lines[1:] if lines and lines[0].kind == "gap" else lines


def limit_text(limit: Limit | None) -> str:
    """Returns a limit as text: 100, refill 5/s."""
    return "off" if limit is None else f"{limit.capacity}, refill {number(limit.refill_rate)}/s"


def sentence(text: str) -> str:
    """Returns a text, for example of an error, as a sentence: with a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def short(text: str) -> str:
    """Returns the beginning of a text from outside, with escapes for what cannot be seen."""
    return printable(text[:MAX_SHOWN]) + ("…" if len(text) > MAX_SHOWN else "")


def isolated(text: str) -> str:
    """Returns a text from outside for a tooltip: nothing in it reorders the text around it."""
    ending = "…" if len(text) > MAX_TITLE else ""
    return f"\N{FIRST STRONG ISOLATE}{printable(text[:MAX_TITLE])}{ending}\N{POP DIRECTIONAL ISOLATE}"


def _digest_of_files(folder: Path) -> str:
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
    "bucket_notes": bucket_notes,
    "tier_notes": tier_notes,
    "utc_time": utc_time,
    "tokens": tokens,
    "duration": duration,
    "limit_text": limit_text,
    "plural": plural,
    "sentence": sentence,
    "printable": printable,
    "short": short,
    "isolated": isolated,
}
_TEMPLATES.globals |= {
    "navigation": NAVIGATION,
    "version": __version__,
    # The digest changes the URL with the content, so that no browser shows an outdated file.
    "static": {
        name: f"/admin/static/{name}?{_digest_of_files(FOLDER / 'static')}"
        for name in ("panel.css", "panel.js", "live.js", "icon.svg")
    },
    "max_name": session.MAX_NAME,
}

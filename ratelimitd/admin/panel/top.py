"""The page Top users: the users and addresses with the most requests, or the most denied ones."""

from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from ratelimitd.admin.panel.endpoint import Panel, PanelRequest

SHOWN = 50
"""Users on the page."""


async def top(panel: Panel, request: PanelRequest) -> Response:
    """Shows the page."""
    return request.render("top.html", **await _context(panel, request))


async def top_parts(panel: Panel, request: PanelRequest) -> Response:
    """Returns the parts of the page that change, for the script that refreshes them."""
    return request.fragment("top_parts.html", **await _context(panel, request))


async def _context(panel: Panel, request: PanelRequest) -> dict[str, Any]:
    denied = request.fields.get("show") == "denied"
    found = await panel.control.top_users(denied=denied, most=SHOWN)
    return {
        "top": found,
        "choice": "denied" if denied else "all",
        "rows": [
            (user, f"key={quote(user.key)}", found.share(user), found.rate_per_s(user))
            for user in found.users
        ],
    }

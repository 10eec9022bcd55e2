"""The page Usage, the first of the panel: decisions over time, and what needs the operator's attention."""

from typing import Any

from starlette.responses import Response

from ratelimitd.admin.panel.chart_axes import time_labels
from ratelimitd.admin.panel.endpoint import Panel, PanelRequest
from ratelimitd.admin.panel.usage_charts import axis_of, marks, plots
from ratelimitd.admin.panel.usage_summary import api_rows, tiles
from ratelimitd.errors import RequestSpecError
from ratelimitd.usage.ranges import UsageRange

RANGES = (
    (UsageRange.QUARTER_HOUR, "15 min", "the last 15 minutes"),
    (UsageRange.HOUR, "1 h", "the last hour"),
    (UsageRange.DAY, "24 h", "the last 24 hours"),
    (UsageRange.WEEK, "7 d", "the last 7 days"),
)

REVISIONS = 10
"""Changes of the policy that the page lists. The history has all."""


async def usage(panel: Panel, request: PanelRequest) -> Response:
    """Shows the page."""
    chosen = _range(request)
    return request.render("usage.html", ranges=RANGES, chosen=chosen, **await _context(panel, chosen))


async def usage_parts(panel: Panel, request: PanelRequest) -> Response:
    """Returns the parts of the page that change, for the script that refreshes them."""
    return request.fragment("usage_parts.html", **await _context(panel, _range(request)))


def _range(request: PanelRequest) -> UsageRange:
    typed = request.fields.get("range", UsageRange.QUARTER_HOUR)
    if typed not in set(UsageRange):
        raise RequestSpecError(f"the range must be 15m, 1h, 24h or 7d, got {typed!r:.40}")
    return UsageRange(typed)


async def _context(panel: Panel, chosen: UsageRange) -> dict[str, Any]:
    found = await panel.control.usage(chosen)
    now = await panel.control.status()
    axis = axis_of(found)
    return {
        "usage": found,
        "now": now,
        "range_name": next(name for one, _, name in RANGES if one is chosen),
        "tiles": tiles(found),
        "charts": [plot.chart(axis) for plot in plots(found)],
        "times": time_labels(axis),
        "marks": marks(found, axis),
        "apis": api_rows(found.apis),
        "revisions": found.revisions[: -REVISIONS - 1 : -1],
    }

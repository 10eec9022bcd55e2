"""The page Replicas: which replica runs which revision, and what shadow would have denied."""

from starlette.responses import Response

from ratelimitd.admin.panel.endpoint import Panel, PanelRequest


async def replicas(panel: Panel, request: PanelRequest) -> Response:
    """Shows the replicas, and how many requests shadow would have denied."""
    now = await panel.control.status()
    shadow = sorted(now.shadow.items(), key=lambda item: (-item[1], item[0]))
    return request.render("replicas.html", now=now, shadow=shadow)

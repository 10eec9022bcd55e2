"""The panel at /admin: pages for people, made on the server. It needs neither scripts nor the internet."""

from pathlib import Path

from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from ratelimitd.admin.keys import Keys, Role
from ratelimitd.admin.panel import change, history, look, sign_in
from ratelimitd.admin.panel.call import Handler, Panel, Refused, endpoint, nothing_more, nowhere
from ratelimitd.control.control import Control
from ratelimitd.settings import Settings

__all__ = ["panel_routes"]

STATIC = Path(__file__).parent / "static"

LOOK: tuple[tuple[str, Handler], ...] = (
    ("/admin", look.overview),
    ("/admin/edit", change.editor),
    ("/admin/history", history.newest),
    ("/admin/history/{number}", history.one),
    ("/admin/replicas", look.replicas),
    ("/admin/explain", look.explain),
    ("/admin/buckets", look.buckets),
)
"""What every key may see."""

WRITE: tuple[tuple[str, Handler], ...] = (
    ("/admin/history/{number}/rollback", history.ask_rollback),
    ("/admin/buckets/reset", look.ask_reset),
)
"""What is seen on the way to a change."""

CHANGE: tuple[tuple[str, Handler], ...] = (
    ("/admin/limits", change.compare_limits),
    ("/admin/edit", change.compare_text),
    ("/admin/edit/check", change.check),
    ("/admin/apply", change.apply),
    ("/admin/history/{number}/rollback", history.rollback),
    ("/admin/buckets/reset", look.reset),
)
"""What is posted, by keys that may change limits."""


def panel_routes(
    control: Control, keys: Keys, settings: Settings, refused: Refused = nothing_more
) -> list[BaseRoute]:
    """The routes of the panel: all that is left at or below /admin, so they stand last.

    They need Starlette's SessionMiddleware around them.

    Args:
        control: what is shown and changed.
        keys: who may.
        settings: those of the service.
        refused: told of each request that came with a wrong key, before it is answered.
    """
    panel = Panel(control, keys, settings, refused)
    return [
        Mount("/admin/static", StaticFiles(directory=STATIC), name="panel_static"),
        Route("/admin/login", endpoint(panel, sign_in.form, None), methods=["GET"]),
        Route("/admin/login", endpoint(panel, sign_in.sign_in, None), methods=["POST"]),
        Route("/admin/logout", endpoint(panel, sign_in.sign_out, None), methods=["POST"]),
        *(Route(path, endpoint(panel, handler, Role.READ), methods=["GET"]) for path, handler in LOOK),
        *(Route(path, endpoint(panel, handler, Role.WRITE), methods=["GET"]) for path, handler in WRITE),
        *(Route(path, endpoint(panel, handler, Role.WRITE), methods=["POST"]) for path, handler in CHANGE),
        *(Route(path, RedirectResponse("/admin")) for path in ("/", "/admin/")),
        Route("/admin/{rest:path}", endpoint(panel, nowhere, None), methods=["GET"]),
    ]

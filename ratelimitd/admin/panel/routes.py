"""The routes of the panel, each with the role that it requires."""

from pathlib import Path

from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from ratelimitd.admin.admin_keys import Keys, Role
from ratelimitd.admin.panel import history, overview, policy_editor, sign_in
from ratelimitd.admin.panel.endpoint import Handler, Panel, Refused, endpoint, nothing_more, nowhere
from ratelimitd.control.control import Control
from ratelimitd.settings import Settings

STATIC = Path(__file__).parent / "static"

LOOK: tuple[tuple[str, Handler], ...] = (
    ("/admin", overview.overview),
    ("/admin/edit", policy_editor.editor),
    ("/admin/history", history.newest),
    ("/admin/history/{number}", history.one),
    ("/admin/replicas", overview.replicas),
    ("/admin/explain", overview.explain),
    ("/admin/buckets", overview.buckets),
)
"""What every key may see."""

WRITE: tuple[tuple[str, Handler], ...] = (
    ("/admin/history/{number}/rollback", history.ask_rollback),
    ("/admin/buckets/reset", overview.ask_reset),
)
"""What is seen on the way to a change."""

CHANGE: tuple[tuple[str, Handler], ...] = (
    ("/admin/limits", policy_editor.compare_limits),
    ("/admin/edit", policy_editor.compare_text),
    ("/admin/edit/check", policy_editor.check),
    ("/admin/apply", policy_editor.apply),
    ("/admin/history/{number}/rollback", history.rollback),
    ("/admin/buckets/reset", overview.reset),
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

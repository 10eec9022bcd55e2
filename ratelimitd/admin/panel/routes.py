"""The routes of the panel, each with the role that it requires."""

from pathlib import Path

from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from ratelimitd.admin.admin_keys import AdminKeys, Role
from ratelimitd.admin.deadlines import Deadlines
from ratelimitd.admin.panel.buckets import buckets, confirm_reset, reset
from ratelimitd.admin.panel.endpoint import Handler, Panel, RefuseKey, endpoint, not_found
from ratelimitd.admin.panel.explain import explain
from ratelimitd.admin.panel.history import confirm_rollback, history, revision_page, rollback
from ratelimitd.admin.panel.limits import limits
from ratelimitd.admin.panel.policy_editor import (
    apply,
    check,
    editor,
    restore,
    review_limits,
    review_text,
)
from ratelimitd.admin.panel.replicas import replicas
from ratelimitd.admin.panel.sign_in import form, sign_in, sign_out
from ratelimitd.admin.panel.top import top, top_parts
from ratelimitd.admin.panel.usage import usage, usage_parts
from ratelimitd.control.control import Control
from ratelimitd.settings import Settings

STATIC = Path(__file__).parent / "static"

PAGES: tuple[tuple[str, Handler], ...] = (
    ("/admin", usage),
    ("/admin/usage", usage_parts),
    ("/admin/top", top),
    ("/admin/top/parts", top_parts),
    ("/admin/limits", limits),
    ("/admin/edit", editor),
    ("/admin/history", history),
    ("/admin/history/{number}", revision_page),
    ("/admin/replicas", replicas),
    ("/admin/explain", explain),
    ("/admin/buckets", buckets),
)
"""Pages that each key may open."""

CONFIRMATIONS: tuple[tuple[str, Handler], ...] = (
    ("/admin/history/{number}/rollback", confirm_rollback),
    ("/admin/buckets/reset", confirm_reset),
)
"""Pages that lead to a change, so they require a key that allows changes."""

FORMS: tuple[tuple[str, Handler], ...] = (
    ("/admin/limits", review_limits),
    ("/admin/edit", review_text),
    ("/admin/edit/check", check),
    ("/admin/apply", apply),
    ("/admin/restore", restore),
    ("/admin/history/{number}/rollback", rollback),
    ("/admin/buckets/reset", reset),
)
"""Forms that are posted. They require a key that allows changes."""


def panel_routes(
    control: Control, keys: AdminKeys, settings: Settings, refuse_key: RefuseKey, deadlines: Deadlines
) -> list[BaseRoute]:
    """Returns the routes at and below /admin. They require SessionMiddleware around them.

    Args:
        control: the operations, without deadlines: the panel sets its own.
        keys: the keys in use.
        settings: the settings of the service.
        refuse_key: called for each wrong key; returns when it may be answered.
        deadlines: how long the parts of a request may take.
    """
    panel = Panel(control, keys, settings, refuse_key, deadlines)
    return [
        Mount("/admin/static", StaticFiles(directory=STATIC), name="panel_static"),
        Route("/admin/login", endpoint(panel, form, None), methods=["GET"]),
        Route("/admin/login", endpoint(panel, sign_in, None), methods=["POST"]),
        Route("/admin/logout", endpoint(panel, sign_out, None), methods=["POST"]),
        *(Route(path, endpoint(panel, handler, Role.READ), methods=["GET"]) for path, handler in PAGES),
        *(
            Route(path, endpoint(panel, handler, Role.WRITE), methods=["GET"])
            for path, handler in CONFIRMATIONS
        ),
        *(Route(path, endpoint(panel, handler, Role.WRITE), methods=["POST"]) for path, handler in FORMS),
        *(Route(path, RedirectResponse("/admin")) for path in ("/", "/admin/")),
        Route("/admin/{rest:path}", endpoint(panel, not_found, None), methods=["GET"]),
    ]

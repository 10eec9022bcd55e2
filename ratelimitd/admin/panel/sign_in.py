"""Signing in with an admin key, and signing out."""

from http import HTTPStatus

import structlog
from starlette.responses import RedirectResponse, Response

from ratelimitd.admin.panel import session
from ratelimitd.admin.panel.endpoint import Panel, PanelRequest, own_path

_log = structlog.get_logger("ratelimitd.admin")


async def form(panel: Panel, request: PanelRequest) -> Response:
    """Shows the form, or redirects a visitor who is signed in already."""
    wanted = own_path(request.fields.get("next", ""))
    if request.visitor.role is not None:
        return RedirectResponse(wanted, HTTPStatus.SEE_OTHER)
    return _form_page(panel, request, wanted)


async def sign_in(panel: Panel, request: PanelRequest) -> Response:
    """Starts a session if the key is valid."""
    wanted = own_path(request.fields.get("next", ""))
    name = session.checked_name(request.fields.get("name", ""))
    if name is None:
        reason = f"Choose another name: at most {session.MAX_NAME} characters, and not “external”."
        return _form_page(panel, request, wanted, bad_name=reason, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    key = request.fields.get("key", "").strip()
    role = panel.keys.role(key)
    if role is None:
        await panel.refuse_key(request.http)
        reason = "This key is not valid." if key else "Enter a key."
        return _form_page(panel, request, wanted, bad_key=reason, name=name, status=HTTPStatus.UNAUTHORIZED)
    session.start(request.http, panel.keys, key, name)
    await _log.ainfo("panel_signed_in", role=role.name.lower(), name=name)
    return RedirectResponse(wanted, HTTPStatus.SEE_OTHER)


async def sign_out(_: Panel, request: PanelRequest) -> Response:
    """Ends the session."""
    session.end(request.http)
    return request.redirect("/admin/login", "You are signed out.")


def _form_page(
    panel: Panel,
    request: PanelRequest,
    wanted: str,
    *,
    bad_key: str = "",
    bad_name: str = "",
    name: str = "",
    status: HTTPStatus = HTTPStatus.OK,
) -> Response:
    visitor = session.visitor_with_token(request.http, panel.keys)
    return PanelRequest(request.http, visitor, request.fields).render(
        "sign_in.html", wanted=wanted, bad_key=bad_key, bad_name=bad_name, name=name, status=status
    )

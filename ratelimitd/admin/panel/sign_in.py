"""Signing in with a key, and out. A wrong key is slowed down and logged by whoever asked to be told."""

from http import HTTPStatus

import structlog
from starlette.responses import RedirectResponse, Response

from ratelimitd.admin.panel import session
from ratelimitd.admin.panel.endpoint import Call, Panel, own_path

_log = structlog.get_logger("ratelimitd.admin")


async def form(panel: Panel, call: Call) -> Response:
    """The form, or where one who is signed in wanted to go."""
    wanted = own_path(call.sent.get("next", ""))
    if call.visitor.role is not None:
        return RedirectResponse(wanted, HTTPStatus.SEE_OTHER)
    return _page(panel, call, wanted)


async def sign_in(panel: Panel, call: Call) -> Response:
    """Begins a session, if the key is one."""
    wanted = own_path(call.sent.get("next", ""))
    name = session.checked_name(call.sent.get("name", ""))
    if name is None:
        reason = f"Another name, please: at most {session.MAX_NAME} characters, and not “external”."
        return _page(panel, call, wanted, bad_name=reason, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    key = call.sent.get("key", "").strip()
    role = panel.keys.role(key)
    if role is None:
        await panel.refused(call.request)
        reason = "That is no key of this service." if key else "A key must be given."
        return _page(panel, call, wanted, bad_key=reason, name=name, status=HTTPStatus.UNAUTHORIZED)
    session.begin(call.request, panel.keys, key, name)
    await _log.ainfo("panel_signed_in", role=role.name.lower(), name=name)
    return RedirectResponse(wanted, HTTPStatus.SEE_OTHER)


async def sign_out(_: Panel, call: Call) -> Response:
    """Ends the session."""
    session.end(call.request)
    return call.then("/admin/login", "You are signed out.")


def _page(
    panel: Panel,
    call: Call,
    wanted: str,
    *,
    bad_key: str = "",
    bad_name: str = "",
    name: str = "",
    status: HTTPStatus = HTTPStatus.OK,
) -> Response:
    visitor = session.visitor_for_form(call.request, panel.keys)
    again = Call(call.request, visitor, call.sent)
    return again.page(
        "sign_in.html", wanted=wanted, bad_key=bad_key, bad_name=bad_name, name=name, status=status
    )

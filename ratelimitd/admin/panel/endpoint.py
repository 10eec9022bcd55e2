"""Wraps every handler of the panel: checks session, role and form, and turns errors into pages."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ratelimitd.admin.admin_keys import AdminKeys, Role
from ratelimitd.admin.deadlines import Deadlines, store_deadline
from ratelimitd.admin.error_responses import status_of
from ratelimitd.admin.middleware import MAX_BODY_BYTES
from ratelimitd.admin.panel import session
from ratelimitd.admin.panel.rendering import render_fragment, render_page, sentence
from ratelimitd.admin.panel.session import Visitor
from ratelimitd.control.control import Control
from ratelimitd.errors import (
    ConflictError,
    PolicyError,
    RatelimitdError,
    RequestSpecError,
    StoreError,
    UnknownRevisionError,
)
from ratelimitd.settings import Settings

RefuseKey = Callable[[Request], Awaitable[None]]

CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"


@dataclass(frozen=True, slots=True)
class Panel:
    """What the handlers work on. `refuse_key` is Authenticator.refuse."""

    control: Control
    keys: AdminKeys
    settings: Settings
    refuse_key: RefuseKey
    deadlines: Deadlines


@dataclass(frozen=True, slots=True)
class PanelRequest:
    """A request that passed the checks. `fields` are those of the form, or of the query for a GET."""

    http: Request
    visitor: Visitor
    fields: Mapping[str, str]

    def render(self, template: str, *, status: int = HTTPStatus.OK, **context: Any) -> Response:
        """Returns a page for this visitor."""
        return render_page(self.http, self.visitor, template, status=status, **context)

    def fragment(self, template: str, **context: Any) -> Response:
        """Returns a part of a page for this visitor."""
        return render_fragment(self.http, self.visitor, template, **context)

    def redirect(self, path: str, message: str, kind: str = "good") -> Response:
        """Answers a form that was carried out: redirects to a page, which shows the message."""
        session.set_flash(self.http, message, kind)
        return RedirectResponse(path, HTTPStatus.SEE_OTHER)


Handler = Callable[[Panel, PanelRequest], Awaitable[Response]]

_TITLES: tuple[tuple[type[RatelimitdError], str], ...] = (
    (StoreError, "Store unavailable"),
    (UnknownRevisionError, "Revision not found"),
    (ConflictError, "Conflict"),
    (PolicyError, "Invalid policy"),
    (RequestSpecError, "Invalid request"),
)


def endpoint(
    panel: Panel, handler: Handler, required: Role | None
) -> Callable[[Request], Awaitable[Response]]:
    """Returns the endpoint that runs `handler` after the checks. `required` None means a public page."""

    async def answer(request: Request) -> Response:
        visitor = session.visitor_of(request, panel.keys)
        if required is not None and visitor.role is None:  # before the form is read: it may be long
            return _signed_out(request, visitor)
        try:
            fields = await _fields(request)
            refusal = _refusal(request, visitor, fields, required)
            if refusal is not None:
                return refusal
            async with store_deadline(panel.deadlines.page_s):
                return await handler(panel, PanelRequest(request, visitor, fields))
        except HTTPException as error:  # the form is too long or broken, or there were too many wrong keys
            status = HTTPStatus(error.status_code)
            return error_page(request, visitor, status, status.phrase, sentence(error.detail))
        except RatelimitdError as error:
            title = _title(error)
            if title is None:
                raise
            return error_page(request, visitor, status_of(error), title, sentence(str(error)))

    return answer


async def _fields(request: Request) -> dict[str, str]:
    if request.method != "POST":
        return dict(request.query_params)
    form = await request.form(max_part_size=MAX_BODY_BYTES)  # the default would refuse a long policy
    return {name: value for name, value in form.items() if isinstance(value, str)}


def _title(error: RatelimitdError) -> str | None:
    return next((title for kind, title in _TITLES if isinstance(error, kind)), None)


def _refusal(
    request: Request, visitor: Visitor, fields: Mapping[str, str], required: Role | None
) -> Response | None:
    token = request.headers.get(CSRF_HEADER, "") or fields.get(CSRF_FIELD, "")
    if request.method == "POST" and session.is_forged(visitor, token):
        return error_page(
            request,
            visitor,
            HTTPStatus.FORBIDDEN,
            "This form has expired",
            "Nothing was changed. Go back, reload the page and try again.",
        )
    if required is not None and visitor.role is not None and visitor.role < required:
        return error_page(
            request,
            visitor,
            HTTPStatus.FORBIDDEN,
            "This key is read-only",
            "Nothing was changed. Sign in with a key that allows changes.",
        )
    return None


def _signed_out(request: Request, visitor: Visitor) -> Response:
    if request.method == "POST":
        return error_page(
            request,
            visitor,
            HTTPStatus.UNAUTHORIZED,
            "You are signed out",
            "Nothing was changed. Go back to copy your text, then sign in again.",
        )
    wanted = _path_and_query(request)
    if request.headers.get("sec-fetch-site") == "cross-site":
        # A link on another site arrives without the SameSite=Strict cookie. A reload from this page sends it.
        return render_page(request, visitor, "reload.html", wanted=wanted)
    return RedirectResponse(f"/admin/login?next={quote(wanted, safe='/')}", HTTPStatus.SEE_OTHER)


def _path_and_query(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


async def not_found(_: Panel, request: PanelRequest) -> Response:
    """Answers a path without a page: one that was mistyped, or that only takes a form."""
    reason = "This address has no page."
    return error_page(request.http, request.visitor, HTTPStatus.NOT_FOUND, "Page not found", reason)


def own_path(wanted: str) -> str:
    """Returns the page to open after signing in: `wanted` if it is in the panel, else its first page."""
    parts = urlsplit(wanted)
    in_panel = parts.path == "/admin" or parts.path.startswith("/admin/")
    return wanted if in_panel and not parts.scheme and not parts.netloc else "/admin"


def error_page(request: Request, visitor: Visitor, status: HTTPStatus, title: str, reason: str) -> Response:
    """Returns a page that explains an error."""
    can_retry = status == HTTPStatus.SERVICE_UNAVAILABLE and request.method == "GET"
    retry_path = _path_and_query(request) if can_retry else ""
    return render_page(
        request, visitor, "error.html", status=status, title=title, reason=reason, retry_path=retry_path
    )

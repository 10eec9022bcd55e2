"""Every request of the panel goes through here: who asks, may he, was the form ours, and what if it fails.

A handler sees only requests that it may answer. Whatever it raises of ours becomes a page with a sentence.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ratelimitd.admin.admin_keys import Keys, Role
from ratelimitd.admin.middleware import MAX_BODY_BYTES
from ratelimitd.admin.panel import session
from ratelimitd.admin.panel.rendering import page
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

ANSWER_S = 15
"""How long a page may take, in seconds. A reset walks through the whole store."""

CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"

Refused = Callable[[Request], Awaitable[None]]


async def nothing_more(request: Request) -> None:
    """Neither slows a wrong key nor logs it."""


@dataclass(frozen=True, slots=True)
class Panel:
    """What the panel works on. `refused` is told of each wrong key."""

    control: Control
    keys: Keys
    settings: Settings
    refused: Refused


@dataclass(frozen=True, slots=True)
class Call:
    """A request that may be answered. `sent` are the fields of its form, or of its query when it is a GET."""

    request: Request
    visitor: Visitor
    sent: Mapping[str, str]

    def page(self, template: str, *, status: int = HTTPStatus.OK, **context: object) -> Response:
        """A page for the one who asks."""
        return page(self.request, self.visitor, template, status=status, **context)

    def then(self, path: str, sentence: str, kind: str = "good") -> Response:
        """The answer to a form that was carried out: another page, which says so."""
        session.say(self.request, sentence, kind)
        return RedirectResponse(path, HTTPStatus.SEE_OTHER)


Handler = Callable[[Panel, Call], Awaitable[Response]]

_MEANING: tuple[tuple[type[RatelimitdError], HTTPStatus, str], ...] = (
    (StoreError, HTTPStatus.SERVICE_UNAVAILABLE, "The store is away"),
    (UnknownRevisionError, HTTPStatus.NOT_FOUND, "No such revision"),
    (ConflictError, HTTPStatus.CONFLICT, "Somebody else was faster"),
    (PolicyError, HTTPStatus.UNPROCESSABLE_ENTITY, "Not a policy"),
    (RequestSpecError, HTTPStatus.UNPROCESSABLE_ENTITY, "This cannot be asked"),
)


def endpoint(panel: Panel, handler: Handler, needs: Role | None) -> Callable[[Request], Awaitable[Response]]:
    """What Starlette calls: `handler` behind the checks. `needs` None is open to everybody."""

    async def answer(request: Request) -> Response:
        visitor = session.visitor_of(request, panel.keys)
        if needs is not None and visitor.role is None:  # before the form: a stranger's is not worth reading
            return _signed_out(request, visitor)
        try:
            sent = await _sent(request)
            refusal = _refusal(request, visitor, sent, needs)
            if refusal is not None:
                return refusal
            async with asyncio.timeout(ANSWER_S):
                return await handler(panel, Call(request, visitor, sent))
        except HTTPException as error:  # a form that is too long or broken, or too many wrong keys
            status = HTTPStatus(error.status_code)
            return error_page(request, visitor, status, status.phrase, sentence(error.detail))
        except TimeoutError:
            reason = f"The store took longer than {ANSWER_S} s."
            return error_page(request, visitor, HTTPStatus.SERVICE_UNAVAILABLE, "The store is away", reason)
        except RatelimitdError as error:
            for kind, status, title in _MEANING:
                if isinstance(error, kind):
                    return error_page(request, visitor, status, title, sentence(str(error)))
            raise

    return answer


async def _sent(request: Request) -> dict[str, str]:
    if request.method != "POST":
        return dict(request.query_params)
    form = await request.form(max_part_size=MAX_BODY_BYTES)  # the default would cut a policy off
    return {name: value for name, value in form.items() if isinstance(value, str)}


def _refusal(
    request: Request, visitor: Visitor, sent: Mapping[str, str], needs: Role | None
) -> Response | None:
    token = request.headers.get(CSRF_HEADER, "") or sent.get(CSRF_FIELD, "")
    if request.method == "POST" and session.is_forged(visitor, token):
        return error_page(
            request,
            visitor,
            HTTPStatus.FORBIDDEN,
            "This form is too old",
            "It was not made for this session, so nothing was done. Go back, load the page again, repeat it.",
        )
    if needs is not None and visitor.role is not None and visitor.role < needs:
        return error_page(
            request,
            visitor,
            HTTPStatus.FORBIDDEN,
            "This key may only look",
            "Nothing was done. Sign in with a key that may change limits.",
        )
    return None


def _signed_out(request: Request, visitor: Visitor) -> Response:
    if request.method == "POST":
        return error_page(
            request,
            visitor,
            HTTPStatus.UNAUTHORIZED,
            "You are signed out",
            "Nothing was done. Go back to copy what you wrote, then sign in again.",
        )
    wanted = _address(request)
    if request.headers.get("sec-fetch-site") == "cross-site":
        # A link from elsewhere comes without its SameSite=Strict cookie. From our own page it comes with it.
        return page(request, visitor, "arrived.html", wanted=wanted)
    return RedirectResponse(f"/admin/login?next={quote(wanted, safe='/')}", HTTPStatus.SEE_OTHER)


def _address(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


async def nowhere(_: Panel, call: Call) -> Response:
    """The answer to a path that is no page's: mistyped, or that of a form, which cannot be looked at."""
    reason = "Nothing stands at this address."
    return error_page(call.request, call.visitor, HTTPStatus.NOT_FOUND, "No such page", reason)


def own_path(wanted: str) -> str:
    """A path of the panel to go to after signing in; never one of another site."""
    parts = urlsplit(wanted)
    ours = parts.path == "/admin" or parts.path.startswith("/admin/")
    return wanted if ours and not parts.scheme and not parts.netloc else "/admin"


def error_page(request: Request, visitor: Visitor, status: HTTPStatus, title: str, reason: str) -> Response:
    """A page that says why not."""
    is_away = status == HTTPStatus.SERVICE_UNAVAILABLE and request.method == "GET"
    again = _address(request) if is_away else ""
    return page(request, visitor, "error.html", status=status, title=title, reason=reason, again=again)


def sentence(text: str) -> str:
    """An error's text as a sentence of a page."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")

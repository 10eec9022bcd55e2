"""The admin service as one application: probes and metrics for everybody, all else for who has a key.

No check of the Host header stands against DNS rebinding. A page that rebinds its name to this address has no
key to send, and the browser does not send it the session's cookie, which belongs to another name; what is
left to it is what everybody may ask.
"""

from http import HTTPStatus

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ratelimitd.admin.admin_keys import Keys
from ratelimitd.admin.api import ROOT, admin_api
from ratelimitd.admin.authentication import PAUSE_S, Guard, Guarded
from ratelimitd.admin.error_responses import HANDLERS, NoTraceback, failure
from ratelimitd.admin.flat_config import flat_config
from ratelimitd.admin.in_time import in_time
from ratelimitd.admin.metrics import CONTENT_TYPE, Metrics
from ratelimitd.admin.middleware import BoundedBody, BrowserRules
from ratelimitd.admin.panel.routes import panel_routes
from ratelimitd.admin.requests_api import Check
from ratelimitd.control.control import Control
from ratelimitd.errors import RatelimitdError, StoreError
from ratelimitd.settings import Settings, env_name

SESSION_S = 8 * 3600
"""A working day."""


def admin_app(
    control: Control, keys: Keys, settings: Settings, check: Check, *, pause_s: float = PAUSE_S
) -> Starlette:
    """The application.

    Args:
        control: what is shown and changed.
        keys: who may. Without any, only probes and metrics answer.
        settings: those of the service.
        check: asks a running service.
        pause_s: how late a wrong key is answered.
    """
    guard = Guard(keys, pause_s)
    app = Starlette(
        routes=_open(control, guard) + (_behind_keys(control, settings, check, guard) if keys else []),
        middleware=[Middleware(BrowserRules), Middleware(NoTraceback), Middleware(BoundedBody)],
        exception_handlers=HANDLERS,
    )
    # No route for what is left: it would take the paths above for methods that they lack, which are 405.
    app.router.default = _panel(control, keys, settings, guard) if keys else _no_key
    app.router.redirect_slashes = False
    return app


def _open(control: Control, guard: Guard) -> list[BaseRoute]:
    metrics = Metrics(control, guard)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        try:
            await in_time(control.current())
        except StoreError:
            return failure(HTTPStatus.SERVICE_UNAVAILABLE, "the store does not answer")
        except RatelimitdError:
            pass  # what the store holds is another matter
        return JSONResponse({"status": "ok"})

    async def scrape(_request: Request) -> Response:
        return Response(await metrics.scrape(), headers={"content-type": CONTENT_TYPE})

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", scrape)]


def _behind_keys(control: Control, settings: Settings, check: Check, guard: Guard) -> list[BaseRoute]:
    api = admin_api(control, settings, check)

    async def openapi(_request: Request) -> Response:
        return JSONResponse(api.openapi())

    return [
        Route("/admin/config", flat_config(control, guard), methods=["GET", "POST"]),
        Route(f"{ROOT}/openapi.json", openapi),
        Mount(ROOT, app=Guarded(api, guard)),
    ]


def _panel(control: Control, keys: Keys, settings: Settings, guard: Guard) -> ASGIApp:
    return SessionMiddleware(
        Router(panel_routes(control, keys, settings, guard.hold)),
        secret_key=keys.session_secret(),
        session_cookie="ratelimitd_session",
        max_age=SESSION_S,
        path="/admin",
        same_site="strict",
        https_only=False,  # it listens on loopback, without TLS
    )


async def _no_key(scope: Scope, receive: Receive, send: Send) -> None:
    sentence = (
        f"no admin key is set: give {env_name('admin_key')} or {env_name('admin_key_file')}, then restart"
    )
    await failure(HTTPStatus.NOT_FOUND, sentence)(scope, receive, send)

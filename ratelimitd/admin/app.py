"""The admin service as one application: probes and metrics are public, everything else requires a key.

The Host header is not checked. A page that attacks by DNS rebinding has no key to send, and the browser keeps
the session cookie, which belongs to another host name, from it; so it reaches only what is public.
"""

from http import HTTPStatus

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ratelimitd.admin.admin_keys import AdminKeys
from ratelimitd.admin.api import API_PATH, admin_api
from ratelimitd.admin.authentication import REFUSAL_DELAY_S, Authenticator, RequireKey
from ratelimitd.admin.deadlines import Deadlines, with_deadlines
from ratelimitd.admin.error_responses import EXCEPTION_HANDLERS, error_response
from ratelimitd.admin.flat_config import flat_config
from ratelimitd.admin.metrics import CONTENT_TYPE, Metrics
from ratelimitd.admin.middleware import BodyLimits, InternalErrors, SecurityHeaders
from ratelimitd.admin.panel.routes import panel_routes
from ratelimitd.admin.requests_api import CheckService
from ratelimitd.control.control import Control
from ratelimitd.errors import RatelimitdError, StoreError
from ratelimitd.settings import Settings, env_name

SESSION_S = 8 * 3600
"""A session lasts a working day."""

DEADLINES = Deadlines()


def admin_app(
    control: Control,
    keys: AdminKeys,
    settings: Settings,
    check_service: CheckService,
    *,
    refusal_delay_s: float = REFUSAL_DELAY_S,
    deadlines: Deadlines = DEADLINES,
) -> Starlette:
    """Returns the application.

    Args:
        control: the operations.
        keys: the keys in use. Without any, only probes and metrics are served.
        settings: the settings of the service.
        check_service: sends a Check to a running service.
        refusal_delay_s: how late a wrong key is answered, in seconds.
        deadlines: how long the parts of a request may take.
    """
    authenticator = Authenticator(keys, refusal_delay_s)
    bounded = with_deadlines(control, deadlines)
    routes = _public_routes(bounded, authenticator)
    if keys:
        routes += _routes_behind_keys(bounded, settings, check_service, authenticator)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(SecurityHeaders), Middleware(InternalErrors), Middleware(BodyLimits)],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    # The panel is the default, not a route: a route would answer 404 to a wrong method of the paths above.
    panel = panel_routes(control, keys, settings, authenticator.refuse, deadlines)
    app.router.default = _with_sessions(panel, keys) if keys else _no_key
    app.router.redirect_slashes = False
    return app


def _public_routes(control: Control, authenticator: Authenticator) -> list[BaseRoute]:
    metrics = Metrics(control, authenticator)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        try:
            await control.current()
        except StoreError:
            return error_response(HTTPStatus.SERVICE_UNAVAILABLE, "the store does not answer")
        except RatelimitdError:
            pass  # the store answers; what it holds does not matter here
        return JSONResponse({"status": "ok"})

    async def scrape(_request: Request) -> Response:
        return Response(await metrics.scrape(), headers={"content-type": CONTENT_TYPE})

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", scrape)]


def _routes_behind_keys(
    control: Control, settings: Settings, check_service: CheckService, authenticator: Authenticator
) -> list[BaseRoute]:
    api = admin_api(control, settings, check_service)

    async def openapi(_request: Request) -> Response:
        return JSONResponse(api.openapi())

    return [
        Route("/admin/config", flat_config(control, authenticator), methods=["GET", "POST"]),
        Route(f"{API_PATH}/openapi.json", openapi),
        Mount(API_PATH, app=RequireKey(api, authenticator)),
    ]


def _with_sessions(routes: list[BaseRoute], keys: AdminKeys) -> ASGIApp:
    return SessionMiddleware(
        Router(routes),
        secret_key=keys.session_secret(),
        session_cookie="ratelimitd_session",
        max_age=SESSION_S,
        path="/admin",
        same_site="strict",
        https_only=False,  # the service listens on loopback, without TLS
    )


async def _no_key(scope: Scope, receive: Receive, send: Send) -> None:
    sentence = (
        f"no admin key is set: set {env_name('admin_key')} or {env_name('admin_key_file')}, then restart"
    )
    await error_response(HTTPStatus.NOT_FOUND, sentence)(scope, receive, send)

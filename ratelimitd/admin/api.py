"""The API at /admin/api/v1: all that the command line does. Its OpenAPI is made of the code that answers."""

from fastapi import FastAPI, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from ratelimitd import __version__
from ratelimitd.admin import policy_api, requests_api
from ratelimitd.admin.authentication import HEADER
from ratelimitd.admin.error_responses import HANDLERS, NoTraceback, failing, on_http_error
from ratelimitd.admin.requests_api import Check
from ratelimitd.control.control import Control
from ratelimitd.settings import Settings

ROOT = "/admin/api"
"""Where it is mounted."""


def admin_api(control: Control, settings: Settings, check: Check) -> FastAPI:
    """The application. It must be behind a Guarded, which asks for the key: here it is only declared."""
    api = FastAPI(
        title="ratelimitd",
        version=__version__,
        summary="Rate limits for Envoy: look at them, change them, undo it.",
        servers=[{"url": ROOT}],
        root_path_in_servers=False,
        openapi_url=None,  # it is told to who has no key, and so beside this application
        docs_url=None,  # its pages load their code from other people's servers
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Security(APIKeyHeader(name=HEADER, auto_error=False))],
        responses=failing(401, 408, 413, 429, 500, 503),
        exception_handlers=HANDLERS | {405: _other_method},
        middleware=[Middleware(NoTraceback)],
        generate_unique_id_function=_operation_id,
    )
    api.state.control, api.state.settings, api.state.check = control, settings, check
    api.include_router(policy_api.router)
    api.include_router(requests_api.router)
    return api


async def _other_method(request: Request, error: Exception) -> Response:
    """The answer to a method that a path does not take. The framework names those of its first route only."""
    response = await on_http_error(request, error)
    routes = [*policy_api.router.routes, *requests_api.router.routes]
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in here if isinstance(route, APIRoute) for method in route.methods or ()}
    response.headers["allow"] = ", ".join(sorted(methods))
    return response


def _operation_id(route: APIRoute) -> str:
    """A name for clients that are generated: that of the function."""
    return route.name

"""The HTTP API at /admin/api/v1. It can do what the command line can, and publishes its own OpenAPI."""

from fastapi import FastAPI, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from ratelimitd import __version__
from ratelimitd.admin import policy_api, requests_api, usage_api
from ratelimitd.admin.authentication import HEADER
from ratelimitd.admin.error_responses import EXCEPTION_HANDLERS, error_declarations, on_http_error
from ratelimitd.admin.middleware import InternalErrors
from ratelimitd.admin.requests_api import CheckService
from ratelimitd.control.control import Control
from ratelimitd.settings import Settings

API_PATH = "/admin/api"
"""Where the application is mounted."""

ROUTERS = (policy_api.router, requests_api.router, usage_api.router)
"""The operations of the API."""


def admin_api(control: Control, settings: Settings, check_service: CheckService) -> FastAPI:
    """Returns the application. It declares the key for OpenAPI only: RequireKey around it must check keys."""
    api = FastAPI(
        title="ratelimitd",
        version=__version__,
        summary="Read, change and roll back rate limits for Envoy.",
        servers=[{"url": API_PATH}],
        root_path_in_servers=False,
        openapi_url=None,  # served by the outer application, because it needs no key
        docs_url=None,  # its pages load scripts from other sites
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Security(APIKeyHeader(name=HEADER, auto_error=False))],
        responses=error_declarations(401, 408, 413, 429, 500, 503),
        exception_handlers=EXCEPTION_HANDLERS | {405: _on_wrong_method},
        middleware=[Middleware(InternalErrors)],
        generate_unique_id_function=_operation_id,
    )
    api.state.control, api.state.settings, api.state.check_service = control, settings, check_service
    for router in ROUTERS:
        api.include_router(router)
    return api


async def _on_wrong_method(request: Request, error: Exception) -> Response:
    """Lists all methods of the path in Allow. The framework lists those of its first route only."""
    response = await on_http_error(request, error)
    routes = [route for router in ROUTERS for route in router.routes]
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in here if isinstance(route, APIRoute) for method in route.methods or ()}
    response.headers["allow"] = ", ".join(sorted(methods))
    return response


def _operation_id(route: APIRoute) -> str:
    """Returns the name of the function, which generated clients use."""
    return route.name

"""A stand-in for a user's service: it shows what reaches the far side of Envoy.

`/ping` answers a greeting, `/health` says it lives, and every other path echoes the request.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


async def ping(_request: Request) -> JSONResponse:
    """The greeting."""
    return JSONResponse({"service": "backend", "message": "response from backend"})


async def health(_request: Request) -> JSONResponse:
    """Alive, as far as this process can tell."""
    return JSONResponse({"status": "ok"})


async def echo(request: Request) -> JSONResponse:
    """What arrived: method, path, query and headers. A header sent twice is a list."""
    headers = {name: request.headers.getlist(name) for name in request.headers}
    return JSONResponse(
        {
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "headers": {name: values[0] if len(values) == 1 else values for name, values in headers.items()},
        }
    )


app = Starlette(
    routes=[
        Route("/ping", ping),
        Route("/health", health),
        Route("/{path:path}", echo, methods=METHODS),
    ]
)

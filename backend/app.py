"""An example of a user's service. It shows what Envoy forwards.

`/ping` answers a greeting, `/health` reports that the process runs, and every other path echoes the request.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


async def ping(_request: Request) -> JSONResponse:
    """Answers a greeting."""
    return JSONResponse({"service": "backend", "message": "response from backend"})


async def health(_request: Request) -> JSONResponse:
    """Reports that the process runs."""
    return JSONResponse({"status": "ok"})


async def echo(request: Request) -> JSONResponse:
    """Answers the method, path, query and headers of the request. A repeated header is a list."""
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

"""Checks of proxies that ask over HTTP about a request which they describe in X-Forwarded headers.

Traefik's ForwardAuth and Caddy's forward_auth send these headers by themselves, Envoy's ext_authz and nginx'
auth_request when they are configured to. A proxy must overwrite what a client sends under these names.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.core.model import Request, new
from ratelimitd.core.ports import Decide
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.http_call import (
    HttpCall,
    HttpMethod,
    HttpResponse,
    headers_of,
    response_encoder,
)

PATH = "/check"
"""The path of each check. Its query is the context, and the options of the response (`_Options`)."""

METADATA = ("outcome", "identity", "policy", "tier", "shadow", "degraded")

_URI, _METHOD, _HOST, _ADDRESS = (
    "x-forwarded-uri",
    "x-forwarded-method",
    "x-forwarded-host",
    "x-forwarded-for",
)

_MAX_QUERY_BYTES = 4096
"""Queries are kept, so a caller must not make them large."""

_SHOWN = 100
"""The most characters of a wrong value in a message."""

_TOO_MANY, _FIRST_ERROR, _LAST_ERROR = 429, 400, 599


class _Options(NamedTuple):
    """What the query of a check says.

    Args:
        denied_status: the status of a denial, for proxies that accept only some (`denied_status`).
        metadata: the response has a header for each item of the metadata (`metadata=true`).
        context: the rest: what the operator attached to the route.
    """

    denied_status: int
    metadata: bool
    context: Mapping[str, str]


def forward_check(decide: Decide) -> HttpMethod:
    """Returns the method that answers the checks."""
    encoders = {True: response_encoder(METADATA, "remaining"), False: response_encoder((), None)}

    async def answer(call: HttpCall) -> HttpResponse:
        options = _options(call.query)
        response = encoders[options.metadata](await decide(decode(call, options.context)))
        if response.status == _TOO_MANY and options.denied_status != _TOO_MANY:
            return response._replace(status=options.denied_status)
        return response

    return answer


def decode(call: HttpCall, context: Mapping[str, str]) -> Request:
    """The client's request. Raises CallError when the headers do not describe it."""
    headers = headers_of(call.fields)
    method, host = headers.get(_METHOD, call.method), headers.get(_HOST) or headers.get("host", "")
    # Envoy joins two of some headers with a comma, and leaves two of others apart.
    if "," in method or "," in host or [name for name, _ in call.fields].count(_URI.encode()) > 1:
        raise _invalid(f"{_URI}, {_METHOD} or {_HOST} is there twice; the proxy must overwrite the client's")
    uri = headers.get(_URI)
    if uri is None:
        raise _invalid(f"the header {_URI} is missing; expected the path of the client's request")
    if not uri.startswith("/"):
        raise _invalid(f"the header {_URI} is {uri[:_SHOWN]!r}; expected a path, which begins with /")
    return new(
        Request,
        (
            method,
            uri.partition("?")[0],
            host,
            headers,
            headers.get(_ADDRESS, call.peer).rpartition(",")[2].strip(),
            context,
            headers.get("traceparent", ""),
        ),
    )


@lru_cache(maxsize=1024)
def _options(query: bytes) -> _Options:
    if len(query) > _MAX_QUERY_BYTES:
        raise _invalid(f"the query has {len(query)} bytes; expected at most {_MAX_QUERY_BYTES}")
    context = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    status, metadata = context.pop("denied_status", str(_TOO_MANY)), context.pop("metadata", "false")
    if not (status.isdecimal() and _FIRST_ERROR <= int(status) <= _LAST_ERROR):
        raise _invalid(
            f"denied_status is {status[:_SHOWN]!r}; expected a status from {_FIRST_ERROR} to {_LAST_ERROR}"
        )
    if metadata not in {"true", "false"}:
        raise _invalid(f"metadata is {metadata[:_SHOWN]!r}; expected true or false")
    return _Options(int(status), metadata == "true", context)


def _invalid(message: str) -> CallError:
    return CallError(GrpcCode.INVALID_ARGUMENT, message)

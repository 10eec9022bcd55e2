"""Checks over HTTP: what a call consists of, and how a decision becomes its response."""

from collections.abc import Awaitable, Callable, Collection
from functools import lru_cache
from typing import NamedTuple

from ratelimitd.core.response import Response, ResponseTemplate
from ratelimitd.transport.decision_encoder import DecisionEncoder

Fields = list[tuple[bytes, bytes]]
"""Header fields as bytes; the names are in lower case."""


class HttpCall(NamedTuple):
    """A call as it arrived.

    Args:
        method: upper-case.
        query: of the path, as sent.
        fields: the headers.
        peer: the IP address of the caller.
    """

    method: str
    query: bytes
    fields: Fields
    peer: str


class HttpResponse(NamedTuple):
    """The response to a call. The body is empty with status 200."""

    status: int
    fields: Fields
    body: bytes


HttpMethod = Callable[[HttpCall], Awaitable[HttpResponse]]
"""Answers a call. Raises CallError for one that cannot be answered."""

ALLOWED = 200
"""The status that lets the client's request go on."""


def headers_of(fields: Fields) -> dict[str, str]:
    """The headers in the form that the core reads (`Request.headers`)."""
    headers: dict[str, str] = {}
    for name, raw in fields:
        key, value = name.decode("latin-1"), raw.decode("utf-8", "surrogateescape")
        headers[key] = f"{headers[key]},{value}" if key in headers else value
    return headers


def response_encoder(metadata: Collection[str], remaining: str | None) -> DecisionEncoder[HttpResponse]:
    """Returns an encoder of decisions as responses.

    Args:
        metadata: the items of the metadata that are sent, each as a header of that name.
        remaining: the name of a header for the tokens left; None for no such header.
    """
    sent = frozenset(metadata)
    template_of = lru_cache(maxsize=8192)(_encode_template)
    name = None if remaining is None else remaining.encode()

    def encode(response: Response) -> HttpResponse:
        template, rate_limit, left = response
        encoded = template_of(template, sent)
        more: Fields = []
        if rate_limit:
            more.append((b"ratelimit", rate_limit.encode()))
        if left is not None and name is not None:
            more.append((name, b"%d" % left))
        return HttpResponse(encoded.status, encoded.fields + more, encoded.body)

    return DecisionEncoder(encode)


def _encode_template(template: ResponseTemplate, sent: frozenset[str]) -> HttpResponse:
    items = [*template.headers, *((name, value) for name, value in template.metadata if name in sent)]
    fields = [(name.encode(), value.encode()) for name, value in items]
    return HttpResponse(template.http_status, fields, template.body.encode())

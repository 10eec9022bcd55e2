"""Checks of an Envoy by the service inside it, over HTTP/1.1.

Envoy sends no CheckRequest over HTTP. What it does not send by itself, headers of the check carry, which
`fast/hop_filters.py` configures so that Envoy overwrites what a client sends under these names.

A request is its head, a response is the whole message, both as bytes: see `fast/hop_server.py`.
"""

import json
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import lru_cache
from typing import NamedTuple

from ratelimitd.core.decision import Decision
from ratelimitd.core.model import Request, new
from ratelimitd.core.ports import Decide
from ratelimitd.core.response import Response, ResponseTemplate
from ratelimitd.transport import hand_over
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.decision_encoder import DecisionEncoder
from ratelimitd.transport.http_call import ALLOWED
from ratelimitd.transport.overload import MARGIN_S, Overload

PATH = "x-ratelimitd-hop-path"
"""The path of the client's request, with its query. The path of the check is fixed.

Envoy accepts paths that no line of a request can have, for example with a space.
"""

PEER = "x-ratelimitd-hop-peer"
"""The client's address as Envoy sees it."""

CONTEXT = "x-ratelimitd-hop-context"
"""The context extensions of the route, as a JSON object; absent when there are none."""

FULL = "x-ratelimitd-hop-full"
"""`true` if the client's request has no room for the header with the tokens left."""

VARIABLE = "_RATELIMITD_HOP"
"""The environment variable with HopSettings as JSON, if the process answers such checks."""

Answer = Callable[[bytes, float], Awaitable[bytes]]
"""Answers a request.

Its arguments are the head of the request, with the empty line, and when it arrived, in seconds of a monotonic
clock. It returns the whole response.
"""


class HopSettings(NamedTuple):
    """What the service must know to answer the checks.

    Args:
        socket: the name of the abstract Unix socket that Envoy connects to.
        metadata: the items of the metadata that a response has, each as a header of that name.
        remaining: the name of the header for `remaining`; None for no such header. Envoy makes a number of
            it, also if it is in the client's request, so a client must not know the name.
    """

    socket: str
    metadata: Collection[str]
    remaining: str | None


class _Encoded(NamedTuple):
    """The response to a decision.

    Args:
        status: 200 to let the client's request go on.
        is_complete: whether HTTP can carry all of it. A response to HEAD is another question.
        data: the message.
    """

    status: int
    is_complete: bool
    data: bytes


class Parts(NamedTuple):
    """What responses with the same template share.

    Args:
        start: the text before the headers with the tokens left.
        end: the text after them.
        is_complete: as in `_Encoded`.
    """

    start: str
    end: str
    is_complete: bool


_NO_CONTEXT: Mapping[str, str] = {}
_SERVER_ERROR = 500
_REFUSED = b"HTTP/1.1 503 \r\ncontent-length: 0\r\n\r\n"


def hop_check(
    decide: Decide, settings: HopSettings, keep: Callable[[Decision], str], overload: Overload
) -> Answer:
    """Returns what answers the checks.

    Args:
        decide: decides requests.
        settings: what Envoy can read.
        keep: keeps the response to a decision if HTTP cannot carry it, and returns its key.
        overload: refuses checks that come too late.
    """
    encode = _encoder(settings)
    timeout_s = lru_cache(_timeout_s)

    async def answer(head: bytes, arrived_s: float) -> bytes:
        line, request, is_full = decode(head)
        left_s = arrived_s + timeout_s(line) - time.monotonic()
        if left_s <= MARGIN_S:
            try:
                overload.check(left_s)
            except CallError:
                return _REFUSED
        decision = await decide(request)
        status, is_complete, data = encode(decision)
        # A response to HEAD has no body, whose length the client's response names.
        if is_full or not is_complete or (status != ALLOWED and request.method == "HEAD"):
            return _handed_over(keep(decision))
        return data

    return answer


def decode(head: bytes) -> tuple[str, Request, bool]:
    """Returns the line of a check, the client's request, and whether it has no room for one more header."""
    line, *lines = str(head, "utf-8", "surrogateescape").split("\r\n")
    headers: dict[str, str] = {}
    for field in lines[:-2]:
        name, _, value = field.partition(": ")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    take = headers.pop
    context = take(CONTEXT, None)
    path, peer, host = take(PATH, ""), take(PEER, ""), take("host", "")
    is_full = take(FULL, "") == "true"
    request = new(
        Request,
        (
            line.partition(" ")[0],
            path.partition("?")[0],
            host,
            headers,
            peer,
            _NO_CONTEXT if context is None else _context(context),
            headers.get("traceparent", ""),
        ),
    )
    return line, request, is_full


def _timeout_s(line: str) -> float:
    """How long Envoy waits for the response: the path of a check is that number of seconds."""
    return float(line.split(" ")[1][1:])


@lru_cache(maxsize=1024)
def _context(text: str) -> Mapping[str, str]:
    context: dict[str, str] = json.loads(text)
    return context


def _encoder(settings: HopSettings) -> DecisionEncoder[_Encoded]:
    sent = frozenset(settings.metadata)
    parts_of = lru_cache(maxsize=8192)(parts)
    remaining = settings.remaining

    def encode(response: Response) -> _Encoded:
        template, rate_limit, left = response
        text, end, is_complete = parts_of(template, sent)
        if rate_limit:
            text = f"{text}ratelimit: {rate_limit}\r\n"
        if left is not None and remaining is not None:
            text = f"{text}{remaining}: {left}\r\n"
        return _Encoded(template.http_status, is_complete, f"{text}{end}".encode())

    return DecisionEncoder(encode)


def parts(template: ResponseTemplate, sent: Collection[str]) -> Parts:
    """Encodes a template, with the items of the metadata that are sent."""
    fields = [*template.headers, *((name, value) for name, value in template.metadata if name in sent)]
    lines = [f"{name}: {value}\r\n" for name, value in fields]
    # Envoy replaces a 5xx by a response of its own.
    is_complete = template.http_status < _SERVER_ERROR and all(_is_field_value(value) for _, value in fields)
    return Parts(
        f"HTTP/1.1 {template.http_status} \r\n{''.join(lines)}",
        f"content-length: {len(template.body.encode())}\r\n\r\n{template.body}",
        is_complete,
    )


def _is_field_value(text: str) -> bool:
    """Whether a header can have this value. Envoy trims spaces; a name in the policy may have line feeds."""
    return text.isprintable() and text == text.strip()


def _handed_over(key: str) -> bytes:
    """Returns the response that makes Envoy fetch the actual one over gRPC."""
    return f"HTTP/1.1 200 \r\n{hand_over.KEY}: {key}\r\ncontent-length: 0\r\n\r\n".encode()

"""The tables of methods: for each path, how to decode a request, answer it and encode the response.

Every transport serves the gRPC methods, and health and reflection take the names of the services from them.
To add an RPC, add a row, and a module that decodes and encodes its messages. `fast` also serves checks over
HTTP.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from math import inf
from typing import Any, NamedTuple

from ratelimitd.core.decision import Decision
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.core.model import Request
from ratelimitd.core.ports import Decide
from ratelimitd.errors import MalformedRequestError
from ratelimitd.transport import ext_authz, forward_check, hop_check
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.hand_over import HandOver
from ratelimitd.transport.hop_check import Answer, HopSettings
from ratelimitd.transport.http_call import HttpMethod
from ratelimitd.transport.large_message import FieldPath
from ratelimitd.transport.overload import MARGIN_S, Overload

CHECK = f"/{ext_authz.SERVICE}/Check"
"""The path of Envoy's external authorization."""

Stream = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
"""A method that takes messages and returns messages, each sent at once. Raises CallError."""


class Unary(NamedTuple):
    """A method that takes one message and returns one.

    Args:
        decode: makes the request from the message and the call's `traceparent`, which is empty when the
            call has none. Raises MalformedRequestError.
        call: answers the request. Raises CallError to end the call without a response.
        encode: makes the message from what `call` returns.
        unneeded: paths of fields that `decode` does not read. Large messages are decoded without them.
        overload: refuses calls that come too late; None to refuse none.
    """

    decode: Callable[[bytes, str], Any]
    call: Callable[[Any], Awaitable[Any]]
    encode: Callable[[Any], bytes]
    unneeded: Collection[FieldPath] = ()
    overload: Overload | None = None

    def begin(self, payload: bytes, traceparent: str, left_s: float = inf) -> Awaitable[Any]:
        """Decodes the request and starts the call, unless it is too late. Raises CallError.

        Args:
            payload: the message.
            traceparent: of the call's metadata, empty when it has none.
            left_s: how long the caller waits from now on, in seconds.
        """
        if left_s <= MARGIN_S and self.overload is not None:
            self.overload.check(left_s)
        try:
            request = self.decode(payload, traceparent)
        except MalformedRequestError as error:
            raise CallError(GrpcCode.INVALID_ARGUMENT, str(error)) from error
        return self.call(request)


class Methods(NamedTuple):
    """What a transport serves beside health and reflection.

    Args:
        unary: the unary gRPC methods by path, `/package.Service/Method`.
        http: the methods over HTTP by path. Only a host of this process can serve them.
    """

    unary: Mapping[str, Unary]
    http: Mapping[str, HttpMethod]


def served_methods(decide: Decide, on_refused: Callable[[], None] = lambda: None) -> Methods:
    """The methods for Envoys and other proxies."""
    return Methods(
        unary_methods(decide, on_refused), {forward_check.PATH: forward_check.forward_check(decide)}
    )


def inside_methods(
    decide: Decide, on_refused: Callable[[], None], settings: HopSettings
) -> tuple[Methods, Answer]:
    """The methods for the Envoy that hosts this process and asks over HTTP, and what answers its checks."""
    overload, hand_over, encode = Overload(on_refused), HandOver(), ext_authz.encoder()

    async def response_to(request: Request | bytes) -> bytes:
        return request if isinstance(request, bytes) else encode(await decide(request))

    def keep(decision: Decision) -> str:
        return hand_over.keep(encode(decision))

    check = Unary(ext_authz.decode_or_fetch(hand_over), response_to, bytes, ext_authz.BODIES, overload)
    return Methods({CHECK: check}, {}), hop_check.hop_check(decide, settings, keep, overload)


def unary_methods(decide: Decide, on_refused: Callable[[], None] = lambda: None) -> Mapping[str, Unary]:
    """The methods by path, `/package.Service/Method`. `on_refused` is called for each refusal by overload."""
    overload = Overload(on_refused)
    return {CHECK: Unary(ext_authz.decode, decide, ext_authz.encoder(), ext_authz.BODIES, overload)}


def service_names(paths: Iterable[str]) -> tuple[str, ...]:
    """The names of the services that these methods belong to, each once."""
    return tuple(dict.fromkeys(path.split("/")[1] for path in paths))

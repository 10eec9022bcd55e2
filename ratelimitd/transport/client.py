"""A client that calls a running service once, as Envoy does.

The call takes tokens like any request, unless it is a dry run.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import grpc
from google.protobuf.json_format import MessageToDict

from ratelimitd.address import CLIENT_TIMEOUT_S, Address, parse_address
from ratelimitd.certificates import ClientTls
from ratelimitd.core.match import DRY_RUN_CONTEXT
from ratelimitd.core.model import Request
from ratelimitd.errors import CertificateError, CheckCallError
from ratelimitd.transport._pb.envoy.config.core.v3.base_pb2 import HeaderValueOption
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.channel import credentials, options, tls_failure
from ratelimitd.transport.services import CHECK
from ratelimitd.utf8 import encodable

CheckOutcome = Literal["allowed", "denied", "error"]

_CODES = {status.value[0]: status.name for status in grpc.StatusCode}

_OWN_SUBCHANNEL = ("grpc.use_local_subchannel_pool", 1)
"""The backoff of a shared subchannel could hide a service that is back."""

_WITHOUT_DETAILS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""Statuses that grpc itself sets, with details about sockets. Other details come from the service."""


@dataclass(frozen=True, slots=True)
class CheckReply:
    """The reply of a service.

    Args:
        outcome: `error` leaves the request to Envoy's failure_mode_allow.
        http_status: the status that the client would get; 200, when allowed, stands for the backend's status.
        headers: headers that the client would get, in addition to those of the backend.
        body: the body that the client would get, empty when allowed.
        metadata: the dynamic metadata, with whole numbers as int.
        grpc_code: the name of the reply's google.rpc.Code, OK when allowed.
    """

    outcome: CheckOutcome
    http_status: int
    headers: dict[str, str]
    body: str
    metadata: dict[str, str | int]
    grpc_code: str


async def check_service(
    target: str,
    request: Request,
    *,
    dry_run: bool = False,
    timeout_s: float = CLIENT_TIMEOUT_S,
    tls: ClientTls | None = None,
) -> CheckReply:
    """The reply of the service at `target` to this request.

    Args:
        target: HOST:PORT, [IPV6]:PORT or unix:/path. 0.0.0.0 and [::] stand for loopback.
        request: the request, whose context is sent as well.
        dry_run: the service decides, but takes no tokens. The reply shows the tokens that are there now.
        timeout_s: how long to wait for the reply, in seconds.
        tls: how to use TLS; None for a plain connection, which a Unix socket always gets.

    Raises CheckCallError without a reply, for an invalid target, and for files of `tls` that cannot be used.
    """
    try:
        address = parse_address(target).reachable
    except ValueError as error:
        raise CheckCallError(f"invalid target {target!r}: {error}") from error
    try:
        with_tls = await asyncio.to_thread(credentials, tls, address)
    except CertificateError as error:
        raise CheckCallError(str(error)) from error
    async with _channel(str(address), with_tls, [*options(tls), _OWN_SUBCHANNEL]) as channel:
        check = channel.unary_unary(
            CHECK,
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        try:
            response = await check(_check_request(request, dry_run=dry_run), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise CheckCallError(_failure(target, error, tls, address)) from error
    return _reply(response)


def _channel(
    target: str, with_tls: grpc.ChannelCredentials | None, given: Sequence[tuple[str, int | str]]
) -> grpc.aio.Channel:
    if with_tls is None:
        return grpc.aio.insecure_channel(target, options=given)
    return grpc.aio.secure_channel(target, with_tls, options=given)


def _failure(target: str, error: grpc.aio.AioRpcError, tls: ClientTls | None, address: Address) -> str:
    sentence = f"{target} does not answer: {error.code().name}"
    details = " ".join((error.details() or "").split())
    if error.code() in _WITHOUT_DETAILS:
        details = tls_failure(details, tls, address)
    return f"{sentence}, {details}" if details else sentence


def _check_request(request: Request, *, dry_run: bool) -> CheckRequest:
    """The message that Envoy sends with encode_raw_headers, which carries any byte in a header."""
    message = CheckRequest()
    attributes = message.attributes
    if request.peer_address:
        attributes.source.address.socket_address.address = request.peer_address
    http = attributes.request.http
    http.method = encodable(request.method)
    http.path = encodable(request.path)
    http.host = encodable(request.host)
    for name, value in request.headers.items():
        http.header_map.headers.add(key=name, raw_value=value.encode(errors="surrogateescape"))
    for key, value in request.context.items():
        attributes.context_extensions[encodable(key)] = encodable(value)
    if dry_run:
        attributes.context_extensions[DRY_RUN_CONTEXT] = "true"
    return message


def _reply(response: CheckResponse) -> CheckReply:
    """Reads a response as Envoy does: the code decides, and `error_response` makes a refusal an error."""
    metadata = _scalars(MessageToDict(response.dynamic_metadata))
    if response.status.code == 0:
        headers = _headers(response.ok_response.response_headers_to_add)
        return CheckReply("allowed", 200, headers, "", metadata, _CODES[0])
    failed = response.HasField("error_response")
    refusal = response.error_response if failed else response.denied_response
    return CheckReply(
        outcome="error" if failed else "denied",
        http_status=refusal.status.code or 403,  # Envoy's default
        headers=_headers(refusal.headers),
        body=refusal.body,
        metadata=metadata,
        grpc_code=_CODES.get(response.status.code, str(response.status.code)),
    )


def _headers(options: Iterable[HeaderValueOption]) -> dict[str, str]:
    return {option.header.key: option.header.value for option in options}


def _scalars(fields: Mapping[str, object]) -> dict[str, str | int]:
    """The texts and numbers of a Struct by key. A Struct holds floats; the service sends whole numbers."""
    return {
        key: value if isinstance(value, str) else int(value)
        for key, value in sorted(fields.items())
        if isinstance(value, str | float)
    }

"""One real Check, asked as Envoy asks it: what a running service answers, not what it should answer.

It spends what any request spends, unless it is a dry run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import grpc
from google.protobuf.json_format import MessageToDict

from ratelimitd.address import CLIENT_TIMEOUT_S, parse_address
from ratelimitd.core.match import DRY_RUN_CONTEXT
from ratelimitd.core.model import Request
from ratelimitd.errors import CheckCallError
from ratelimitd.transport._pb.envoy.config.core.v3.base_pb2 import HeaderValueOption
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.services import CHECK
from ratelimitd.utf8 import encodable

Outcome = Literal["allowed", "denied", "error"]

_CODES = {status.value[0]: status.name for status in grpc.StatusCode}

_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
"""No proxy of this machine's environment is asked. And no failure is remembered: who comes back is there."""

_SAY_NO_MORE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""Statuses whose details are gRPC's own, about sockets and clocks; those of others are a service's words."""


@dataclass(frozen=True, slots=True)
class CheckReply:
    """What a service answered.

    Args:
        outcome: `error` leaves it to Envoy's failure_mode_allow.
        http_status: what the client would get; 200 when allowed, which stands for the backend's own.
        headers: what the client would get beside the backend's own; when allowed, too.
        body: what the client would get, empty when allowed.
        metadata: the dynamic metadata, whose whole numbers are of type int.
        grpc_code: the name of the answer's google.rpc.Code: OK when allowed.
    """

    outcome: Outcome
    http_status: int
    headers: dict[str, str]
    body: str
    metadata: dict[str, str | int]
    grpc_code: str


async def ask(
    target: str, question: Request, *, dry_run: bool = False, timeout_s: float = CLIENT_TIMEOUT_S
) -> CheckReply:
    """What the service at `target` answers to this request.

    Args:
        target: HOST:PORT, [IPV6]:PORT or unix:/path. 0.0.0.0 and [::] are loopback.
        question: the request; its context travels too.
        dry_run: the service decides and takes nothing: it tells of the tokens that are still there.
        timeout_s: how long to wait for the answer.

    Raises CheckCallError when there is no answer, or no such target can be.
    """
    try:
        reachable = str(parse_address(target).reachable)
    except ValueError as error:
        raise CheckCallError(f"{target!r} cannot be asked: {error}") from error
    async with grpc.aio.insecure_channel(reachable, options=_OPTIONS) as channel:
        check = channel.unary_unary(
            CHECK,
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        try:
            response = await check(check_request(question, dry_run=dry_run), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise CheckCallError(_no_answer(target, error)) from error
    return _asked(response)


def _no_answer(target: str, error: grpc.aio.AioRpcError) -> str:
    sentence = f"{target} does not answer: {error.code().name}"
    details = " ".join((error.details() or "").split())
    return sentence if error.code() in _SAY_NO_MORE or not details else f"{sentence}, {details}"


def check_request(question: Request, *, dry_run: bool) -> CheckRequest:
    """The message that Envoy sends for such a request with encode_raw_headers, so any byte travels."""
    request = CheckRequest()
    attributes = request.attributes
    if question.peer_address:
        attributes.source.address.socket_address.address = question.peer_address
    http = attributes.request.http
    http.method = encodable(question.method)
    http.path = encodable(question.path)
    http.host = encodable(question.host)
    for name, value in question.headers.items():
        http.header_map.headers.add(key=name, raw_value=value.encode(errors="surrogateescape"))
    for key, value in question.context.items():
        attributes.context_extensions[encodable(key)] = encodable(value)
    if dry_run:
        attributes.context_extensions[DRY_RUN_CONTEXT] = "true"
    return request


def _asked(response: CheckResponse) -> CheckReply:
    """Only the code of an answer decides, and of a refusal whether Envoy counts it as an error."""
    metadata = _scalars(MessageToDict(response.dynamic_metadata))
    if response.status.code == 0:
        headers = _headers(response.ok_response.response_headers_to_add)
        return CheckReply("allowed", 200, headers, "", metadata, _CODES[0])
    failed = response.HasField("error_response")
    refusal = response.error_response if failed else response.denied_response
    return CheckReply(
        outcome="error" if failed else "denied",
        http_status=refusal.status.code or 403,  # which is what Envoy makes of none
        headers=_headers(refusal.headers),
        body=refusal.body,
        metadata=metadata,
        grpc_code=_CODES.get(response.status.code, str(response.status.code)),
    )


def _headers(options: Iterable[HeaderValueOption]) -> dict[str, str]:
    return {option.header.key: option.header.value for option in options}


def _scalars(fields: Mapping[str, object]) -> dict[str, str | int]:
    """Of a Struct, which knows no whole numbers, what a service of ours tells: texts and whole numbers."""
    return {
        key: value if isinstance(value, str) else int(value)
        for key, value in sorted(fields.items())
        if isinstance(value, str | float)
    }

"""Checks of an Envoy by the service inside it: what is handed over, and that each request is decided once."""

import asyncio
import time
from typing import NamedTuple

import pytest

from ratelimitd.core.decision import Decision
from ratelimitd.core.model import OnStoreError, Request
from ratelimitd.core.ports import Limiter
from ratelimitd.core.response import ResponseKind, ResponseTemplate
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.ext_authz import NAMESPACE
from ratelimitd.transport.hand_over import KEY, MAX_WAITING, HandOver
from ratelimitd.transport.hop_check import HopSettings, parts
from ratelimitd.transport.services import CHECK, inside_methods
from tests.core.fakes import BrokenLimiter, OracleLimiter, decider_over

SETTINGS = HopSettings("", ("outcome", "shadow"), "left")


class Received(NamedTuple):
    """A response over HTTP."""

    status: int
    fields: list[tuple[str, str]]
    body: str


def received(response: bytes) -> Received:
    head, _, body = response.decode().partition("\r\n\r\n")
    line, *lines = head.split("\r\n")
    fields = [(name, value) for name, _, value in (field.partition(": ") for field in lines)]
    name, length = fields.pop()
    assert (name, int(length)) == ("content-length", len(body))
    return Received(int(line.split(" ")[1]), fields, body)


class Inside:
    """The methods of a service inside an Envoy. `decisions` has each decision that it made."""

    def __init__(self, limiter: Limiter) -> None:
        decide = decider_over(limiter, OnStoreError.DENY)
        self.decisions: list[Decision] = []

        async def counted(request: Request) -> Decision:
            decision = await decide(request)
            self.decisions.append(decision)
            return decision

        self.refused = 0
        self.methods, self._answer = inside_methods(counted, self._on_refused, SETTINGS)

    def _on_refused(self) -> None:
        self.refused += 1

    async def over_http(
        self, method: str = "GET", *, path: str = "/1", waited_s: float = 0, **headers: str
    ) -> Received:
        """Asks over HTTP."""
        sent = {"x-ratelimitd-hop-path": "/api/x?q=1"} | {n.replace("_", "-"): v for n, v in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
        head = "\r\n".join(lines).encode("utf-8", "surrogateescape")
        return received(await self._answer(head, time.monotonic() - waited_s))

    async def over_grpc(self, key: str) -> CheckResponse:
        """Fetches a response."""
        request = CheckRequest()
        request.attributes.request.http.method = "GET"
        request.attributes.metadata_context.filter_metadata[NAMESPACE].fields[KEY].string_value = key
        unary = self.methods.unary[CHECK]
        return CheckResponse.FromString(unary.encode(await unary.begin(request.SerializeToString(), "")))


def key_of(response: Received) -> str:
    """Returns the key of a response that was handed over."""
    ((name, key),) = response.fields
    assert (response.status, name, response.body) == (200, KEY, "")
    return key


async def test_concurrent_responses_are_each_fetched_once_and_none_is_left() -> None:
    inside = Inside(BrokenLimiter())
    keys = [key_of(one) for one in await asyncio.gather(*(inside.over_http() for _ in range(50)))]
    assert len(set(keys)) == len(inside.decisions) == 50
    fetched = await asyncio.gather(*(inside.over_grpc(key) for key in keys))
    assert {one.denied_response.status.code for one in fetched} == {503}
    assert len(inside.decisions) == 50
    again = await inside.over_grpc(keys[0])
    assert again.denied_response.status.code == 503
    assert len(inside.decisions) == 51  # nothing was left to fetch


@pytest.mark.parametrize(
    ("method", "full", "handed_over"),
    [("GET", "false", False), ("GET", "", False), ("GET", "true", True), ("HEAD", "false", False)],
)
async def test_a_request_without_room_for_a_header_is_handed_over(
    method: str, full: str, *, handed_over: bool
) -> None:
    inside = Inside(OracleLimiter())
    response = await inside.over_http(method, x_ratelimitd_hop_full=full)
    if handed_over:
        assert (await inside.over_grpc(key_of(response))).HasField("ok_response")
    else:
        assert ("left", "2") in response.fields
    assert len(inside.decisions) == 1
    request = inside.decisions[0].request
    assert (request.path, dict(request.headers)) == ("/api/x", {})


async def test_a_denial_of_head_is_handed_over() -> None:
    inside = Inside(OracleLimiter())
    for _ in range(5):
        last = await inside.over_http("HEAD", x_user_id="head")
    denied = await inside.over_http("HEAD", x_user_id="head")
    assert last.status == 200
    assert (await inside.over_grpc(key_of(denied))).denied_response.status.code == 429


async def test_a_check_that_waited_for_too_long_is_refused_without_a_decision() -> None:
    inside = Inside(OracleLimiter())
    assert (await inside.over_http(path="/0.25", waited_s=0.3)).status == 503
    assert (inside.refused, inside.decisions) == (1, [])
    assert (await inside.over_http(path="/inf", waited_s=1000)).status == 200


async def test_headers_are_read_as_envoy_sends_them() -> None:
    inside = Inside(OracleLimiter())
    await inside.over_http(
        host="a.example", a="1", empty="", bytes="\udcff\u00e4", x_ratelimitd_hop_context='{"api": "\\u00e4"}'
    )
    await inside.over_http(x_ratelimitd_hop_peer="192.0.2.1", a="1\r\na: 2")
    first, second = (decision.request for decision in inside.decisions)
    assert (first.host, dict(first.headers)) == (
        "a.example",
        {"a": "1", "empty": "", "bytes": "\udcff\u00e4"},
    )
    assert (first.context, second.context) == ({"api": "\u00e4"}, {})
    assert (second.peer_address, dict(second.headers)) == ("192.0.2.1", {"a": "1,2"})


@pytest.mark.parametrize(
    ("name", "handed_over"),
    [("k", False), ("k\u00e4 the", False), ("k\r\nx: y", True), ("k\x00", True), (" k", True), ("k\t", True)],
)
def test_a_name_that_no_header_can_have_is_handed_over(name: str, *, handed_over: bool) -> None:
    template = ResponseTemplate(ResponseKind.OK, 200, metadata=(("shadow", name),))
    assert parts(template, frozenset({"shadow"})).is_complete is not handed_over


def test_the_oldest_responses_are_dropped() -> None:
    hand_over = HandOver()
    keys = [hand_over.keep(b"%d" % n) for n in range(MAX_WAITING + 2)]
    assert len(hand_over) == MAX_WAITING
    assert [hand_over.fetch(key) for key in keys[:3]] == [None, None, b"2"]
    assert len(hand_over) == MAX_WAITING - 1

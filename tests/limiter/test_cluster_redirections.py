"""Tests of following redirections between the nodes of a Redis Cluster, on nodes with scripted answers."""

import asyncio
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest
from redis.exceptions import AskError, MovedError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest
from ratelimitd.errors import StoreConnectionError, StoreError, StoreRedirectError
from ratelimitd.limiter.cluster_lanes import Lane
from ratelimitd.limiter.cluster_limiter import AT_ONCE, PAUSE_S, ClusterLimiter
from ratelimitd.limiter.node_limiter import NodeLimiter
from ratelimitd.store.cluster_slots import SLOTS
from ratelimitd.store_url import Node
from tests.core.take_requests import take_request

SOURCE, TARGET = Node("10.0.0.1", 7001), Node("10.0.0.2", 7002)
REQUEST = take_request({"rate:user:{a}": Limit(5, 1.0)})
ALLOWED = Outcome(allowed=True, tokens=(4 * MICRO,))


def redirection(cause: ResponseError) -> StoreRedirectError:
    """Returns the error of a call that a node answered with `cause`."""
    error = StoreRedirectError("the node failed")
    error.__cause__ = cause
    return error


class Batcher:
    """Answers calls in order; the last answer is repeated."""

    def __init__(self, *answers: Outcome | StoreError) -> None:
        self.answers = answers
        self.calls = 0

    async def take(self, _request: TakeRequest) -> Outcome:
        """Returns the next answer, or raises it."""
        answer = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        if isinstance(answer, StoreError):
            raise answer
        return answer

    def note(self, _request: TakeRequest, _error: StoreError) -> None:
        """Counts nothing."""


class Lanes:
    """The ways to the source, which owns all slots, and to the target."""

    def __init__(self, source: Batcher, owning: Batcher, asking: Batcher) -> None:
        self.nodes = (SOURCE, TARGET)
        self.source: Any = Lane(SOURCE, Mock(), source, Mock())  # type: ignore[arg-type] # scripted
        self.target: Any = Lane(TARGET, Mock(), owning, asking)  # type: ignore[arg-type] # scripted
        self.by_slot = [self.source] * SLOTS
        self.searches = 0

    def suspect(self) -> None:
        """Counts searches."""
        self.searches += 1

    async def lane_to(self, node: Node) -> Lane:
        """Returns the way to a node, which is the target."""
        assert node == TARGET
        return self.target  # type: ignore[no-any-return] # scripted

    def move(self, slot: int, lane: Lane) -> None:
        """Notes the owner of a slot."""
        self.by_slot[slot] = lane


def limiter_over(lanes: Lanes) -> ClusterLimiter:
    """Returns a limiter over these nodes."""
    return ClusterLimiter(lanes, Mock(), timeout_s=10)  # type: ignore[arg-type] # scripted


@pytest.mark.parametrize("host", [TARGET.host, "?"])
@pytest.mark.parametrize(("kind", "calls"), [(MovedError, (1, 0)), (AskError, (0, 1))])
async def test_a_redirection_leads_to_the_target(
    kind: type[AskError], host: str, calls: tuple[int, int]
) -> None:
    """Nodes without a host name are named `?`. MOVED holds for later calls, and ASK does not."""
    owning, asking = Batcher(ALLOWED), Batcher(ALLOWED)
    lanes = Lanes(Batcher(redirection(kind(f"1 {host}:{TARGET.port}"))), owning, asking)
    assert await limiter_over(lanes).take(REQUEST) == ALLOWED
    assert (owning.calls, asking.calls) == calls
    assert (lanes.target in lanes.by_slot) == (kind is MovedError)
    assert lanes.searches == 1


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Returns the pauses that are asked for, in seconds. They end at once."""
    asked: list[float] = []

    async def sleep(pause_s: float) -> None:
        asked.append(pause_s)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return asked


async def test_a_call_that_no_node_executes_yet_is_made_again_after_a_pause(pauses: list[float]) -> None:
    again = redirection(TryAgainError("TRYAGAIN"))
    source = Batcher(again, again, ALLOWED)
    assert await limiter_over(Lanes(source, Batcher(ALLOWED), Batcher(ALLOWED))).take(REQUEST) == ALLOWED
    assert pauses == [PAUSE_S] * 2


async def test_nodes_that_name_each_other_are_asked_with_pauses(pauses: list[float]) -> None:
    moved = redirection(MovedError(f"1 {TARGET.host}:{TARGET.port}"))
    owning = Batcher(*[moved] * AT_ONCE, ALLOWED)
    assert await limiter_over(Lanes(Batcher(moved), owning, Batcher(ALLOWED))).take(REQUEST) == ALLOWED
    assert pauses == [PAUSE_S]


async def test_a_call_that_fails_starts_a_search_and_is_not_made_again() -> None:
    source = Batcher(StoreConnectionError("lost"))
    lanes = Lanes(source, Batcher(ALLOWED), Batcher(ALLOWED))
    with pytest.raises(StoreConnectionError, match="lost"):
        await limiter_over(lanes).take(REQUEST)
    assert (source.calls, lanes.searches) == (1, 1)


def reply_of(tokens: int) -> object:
    """Returns the script's reply to two requests of a slot, which leave these tokens and one less."""
    return [1, tokens * MICRO, 1, (tokens - 1) * MICRO]


@pytest.mark.parametrize(
    ("replies", "answers"),
    [
        ([reply_of(4), reply_of(8)], [4, 8, 3, 7]),
        ([NotConnectedError("x"), reply_of(8)], [StoreConnectionError, 8, StoreConnectionError, 7]),
        ([ResponseError("x"), ResponseError("y")], [StoreError] * 4),
        ([NotConnectedError("x"), NotConnectedError("x")], StoreConnectionError),
    ],
)
async def test_each_request_of_a_call_gets_its_own_answer(replies: list[Any], answers: Any) -> None:
    """A call whose requests all lost their connection failed as a whole, which the breaker needs to know."""
    link, got = Mock(), asyncio.get_running_loop().create_future()

    def call_all(calls: Sequence[Any]) -> None:
        for (_, callback), reply in zip(calls, replies, strict=True):
            callback(reply)

    link.call_all = call_all
    keys = ("rate:user:{a}", "rate:user:{b}")
    requests = [take_request({key: Limit(9, 1.0)}) for key in keys] * 2
    NodeLimiter(link, "the node").submit(requests, got.set_result)
    answer = await got
    if not isinstance(answers, list):
        assert isinstance(answer, answers)
        return
    assert not isinstance(answer, Exception)
    for one, expected in zip(answer, answers, strict=True):
        if isinstance(one, Outcome):
            assert one.tokens == (expected * MICRO,)
        else:
            assert isinstance(one, expected)

"""Tests that leases keep the law of a bucket, over replicas and a store that hypothesis drives."""

import asyncio
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.lease import lease_terms
from ratelimitd.core.model import MICRO, Limit
from tests.limiter.leased_replicas import Call, Replica, World

Step = tuple[int, str, int, int]
"""Tenths of the time of a lease before the step, the action, its replica, and a number for the action.

In an attack, this time is between the leases and the burst.
"""

REPLICAS = 3
CLOCK_RATES = (Fraction(1), Fraction("0.995"), Fraction("1.005"))
LIMITS = (Limit(64, 200.0), Limit(64, 800.0), Limit(128, 100.0), Limit(200, 40.0), Limit(3, 50.0))
USERS = (None, Limit(1000, 1000.0), Limit(2, 1.0))

BURST = (16, 16, 8, 4, 2, 1, 1, 1, 1)
"""Tokens that each replica asks for in a burst. Large costs empty the bucket, small ones the leases."""

FULL = 50
"""Tenths of the time of a lease in which the bucket becomes full, and all leases end."""

ACTIONS = ["attack"] * 6 + ["warm"] * 3 + ["ask"] * 3 + ["burst"] * 3
ACTIONS += ["send", "call", "decide", "answer", "lose", "die", "limit", "clock"]
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 5, 9, 9, 11, 15, 19, 25, FULL, FULL]),
        st.sampled_from(ACTIONS),
        st.integers(0, REPLICAS - 1),
        st.integers(1, 12),
    ),
    min_size=4,
    max_size=12,
)


async def settle() -> None:
    """Lets all tasks go on until they wait for the store."""
    for _ in range(6):
        await asyncio.sleep(0)


async def call(world: World) -> None:
    """Lets the store decide all calls, and delivers the outcomes, until nobody waits."""
    await settle()
    while world.sent or world.decided:
        for one in world.sent.copy():
            world.decide(one)
        for one in world.decided.copy():
            world.answer(one)
        await settle()


async def warm(world: World, replica: Replica, number: int) -> None:
    """Makes requests, one after another, so that the replica leases several tokens."""
    for _ in range(number):
        replica.begin(MICRO)
        await call(world)


async def burst(world: World, replicas: Sequence[Replica]) -> None:
    """Lets all replicas ask for more than there is, at the same time."""
    for replica in replicas:
        for cost in BURST:
            replica.begin(MICRO * cost)
    await call(world)


def act(world: World, replica: Replica, action: str, number: int) -> None:
    """Takes one step; `number` counts calls or requests, or chooses a limit or a step of the clock."""
    match action:
        case "send":
            for _ in range(number):
                replica.begin(MICRO * (1 + number % 3 // 2), USERS[number % len(USERS)])
        case "decide":
            list(map(world.decide, world.sent[:number]))
        case "answer":
            list(map(world.answer, world.decided[:number]))
        case "lose":
            list(map(Call.lose, world.sent[:number] + world.decided[:number]))
        case "die":
            replica.die()
        case "limit":
            replica.limit = LIMITS[number % len(LIMITS)]
        case "clock":
            world.clocks.step((number - 6) * 5 * MICRO)


async def broken_law(steps: Sequence[Step], limit: Limit, *, split: bool) -> str:
    """Returns what `World.broken_law` finds after these steps."""
    world = World()
    replicas = [Replica(world, limit, split=split, rate=rate) for rate in CLOCK_RATES]
    tenth_us = min(50_000, int(limit.capacity / 80 * MICRO / limit.refill_rate))
    for tenths, action, at, number in steps:
        if action == "attack":
            world.clocks.now_us += FULL * tenth_us
            await warm(world, replicas[at], number)
        world.clocks.now_us += tenths * tenth_us
        if action == "warm":
            await warm(world, replicas[at], number)
        elif action == "ask":
            act(world, replicas[at], "send", number)
            await call(world)
        elif action in {"attack", "burst"}:
            await burst(world, replicas)
        elif action == "call":
            await call(world)
        else:
            act(world, replicas[at], action, number)
            await settle()
    await call(world)
    return world.broken_law(replicas[0].limit)


async def test_a_lease_is_counted_from_when_its_call_was_sent() -> None:
    """Its reply is late, so the next request needs a take of its own."""
    world, limit = World(), Limit(64, 200.0)
    replica, terms = Replica(world, limit, split=False), lease_terms(limit)
    assert terms is not None
    for _ in range(4):
        replica.begin(MICRO)
    await settle()
    for one in world.sent.copy():
        world.decide(one)
        world.answer(one)
    await settle()
    (lease,) = world.sent
    world.decide(lease)
    world.clocks.now_us += terms.usable_us + 1
    world.answer(lease)
    await settle()
    replica.begin(MICRO)
    await settle()
    assert [one.request.charge.cost for one in world.sent] == [MICRO]
    await call(world)


async def test_tokens_of_a_denied_request_are_a_lease_from_when_its_call_was_sent() -> None:
    """The reply is late, so the next request cannot spend them."""
    world, limit, user = World(), Limit(64, 200.0), Limit(1, 1.0)
    replica, terms = Replica(world, limit, split=True), lease_terms(limit)
    assert terms is not None
    replica.begin(MICRO, user)
    await call(world)
    replica.begin(MICRO, user)
    await settle()
    (first,) = world.sent
    world.decide(first)
    world.clocks.now_us += terms.usable_us + 1
    world.answer(first)
    await call(world)
    replica.begin(MICRO)
    await settle()
    assert len(world.sent) == 1
    await call(world)


async def test_a_take_that_becomes_a_lease_leaves_the_reserve_in_the_bucket() -> None:
    """Otherwise the bucket would be full again before the lease ends, and a burst could empty both."""
    world, limit, user = World(), Limit(64, 200.0), Limit(1, 1.0)
    one, other = (Replica(world, limit, split=True) for _ in range(2))
    terms = lease_terms(limit)
    assert terms is not None
    for _ in range(2):
        one.begin(MICRO, user)  # the second is denied by its user's bucket, so its token becomes a lease
        await call(world)
    world.clocks.now_us += terms.usable_us
    for cost in (limit.capacity, limit.capacity - 3):
        other.begin(MICRO * cost)
        await call(world)
    one.begin(MICRO)
    await call(world)
    assert [admitted.cost // MICRO for admitted in world.admissions] == [1, limit.capacity - 3, 1]
    assert not world.broken_law(limit)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("limit", LIMITS[:3])
async def test_a_burst_at_any_time_after_a_lease_keeps_the_law(limit: Limit, *, split: bool) -> None:
    """A lease that could be spent for longer would pay for requests beside a bucket that is full again."""
    for requests in range(2, 12, 2):
        for tenths in (0, 5, 9, 11, 13, 15, 19, 25):
            assert not await broken_law([(tenths, "attack", 0, requests)], limit, split=split)


@pytest.mark.parametrize("split", [False, True])
@given(steps=STEPS, limit=st.sampled_from(LIMITS))
def test_no_window_admits_more_than_capacity_plus_refill(
    *, split: bool, steps: list[Step], limit: Limit
) -> None:
    """The steps delay and lose calls, end replicas, change limits, and step the store's clock."""
    assert not asyncio.run(broken_law(steps, limit, split=split))

"""How a replica counts the live replicas on a real store, for its share of the limits."""

from collections.abc import Iterable

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.core.model import MICRO
from ratelimitd.errors import StoreError
from ratelimitd.rollout.follower import PolicyFollower
from ratelimitd.rollout.presence import Presence
from ratelimitd.rollout.replicas import Replicas
from tests.example_limits import KEY
from tests.replicas import replica

NOW = 1_795_000_000 * MICRO


async def counts(store: Redis, presence: Presence, seconds: Iterable[int], *others: str) -> list[int]:
    """Publishes the entries of others and then of this replica, at each of these seconds.

    Returns how many live replicas it knows each time.
    """
    found = []
    for second in seconds:
        for name in others:
            await Replicas(store, KEY).publish(replica(name, seen_us=NOW + second * MICRO))
        await presence.publish(NOW + second * MICRO)
        found.append(presence.live)
    return found


async def test_a_replica_counts_itself_and_the_others_that_are_not_silent(store: Redis) -> None:
    presence = Presence(store, KEY, replica("one"))
    assert presence.live == 1
    assert await counts(store, presence, [0]) == [1]
    assert await counts(store, presence, range(1, 7), "two", "three") == [3] * 6
    await Replicas(store, KEY).leave("two")
    assert await counts(store, presence, range(7, 13)) == [2] * 5 + [1]


async def test_many_replicas_count_less_often(store: Redis) -> None:
    presence = Presence(store, KEY, replica("one"))
    others = [f"other{number}" for number in range(29)]
    assert await counts(store, presence, range(7), *others) == [30] * 7
    await Replicas(store, KEY).leave("other0")
    assert await counts(store, presence, range(7, 10), *others[1:]) == [30, 30, 29]


@pytest.mark.parametrize("away_s", [3, 7, 700, -700])
async def test_after_an_outage_or_a_step_of_the_clock_others_have_time_to_return(
    store: Redis, away_s: int
) -> None:
    """A replica that returns first finds the others' entries old. It must not take the shares of all."""
    presence = Presence(store, KEY, replica("one"))
    await counts(store, presence, range(7), "two", "three")
    back_s = 6 + away_s
    assert await counts(store, presence, [back_s, back_s + 1]) == [3, 3]
    assert await counts(store, presence, range(back_s + 2, back_s + 5), "two") == [3] * 3
    assert await counts(store, presence, [back_s + 5, back_s + 6], "two") == [3, 2]


async def test_after_the_loss_of_all_entries_others_have_time_to_return(store: Redis) -> None:
    presence = Presence(store, KEY, replica("one"))
    await counts(store, presence, range(7), "two", "three")
    await store.flushall()
    assert await counts(store, presence, range(7, 14), "two") == [3] * 6 + [2]


async def test_while_entries_are_refused_the_number_does_not_fall(store: Redis) -> None:
    """No replica can renew its entry then."""
    presence = Presence(store, KEY, replica("one"))
    await counts(store, presence, range(7), "two")
    await store.config_set("min-replicas-to-write", "1")
    try:
        for second in range(7, 15):
            with pytest.raises(StoreError, match="NOREPLICAS"):
                await counts(store, presence, [second])
            assert presence.live == 2
    finally:
        await store.config_set("min-replicas-to-write", "0")
    assert await counts(store, presence, range(15, 22)) == [2] * 6 + [1]


async def test_a_store_that_refuses_writes_is_still_counted(store: Redis) -> None:
    await Replicas(store, KEY).publish(replica("two", seen_us=(await store.time())[0] * MICRO))
    policies = PolicyFollower(store, KEY, replica("one"))
    await store.config_set("min-replicas-to-write", "1")
    try:
        with capture_logs():
            await policies.poll()
    finally:
        await store.config_set("min-replicas-to-write", "0")
    assert policies.live_replicas == 2

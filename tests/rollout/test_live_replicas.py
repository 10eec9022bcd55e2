"""How a replica counts the live replicas on a real store, for its share of the limits."""

from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.core.model import MICRO
from ratelimitd.rollout.follower import PolicyFollower
from ratelimitd.rollout.presence import Presence
from ratelimitd.rollout.replicas import Replicas
from tests.example_limits import KEY
from tests.replicas import replica

NOW = 1_795_000_000 * MICRO


async def counted(presence: Presence, now_us: int) -> int:
    """Publishes the entry of a replica, and returns how many live replicas it knows then."""
    await presence.publish(now_us)
    return presence.live


async def test_a_replica_counts_itself_and_the_others_that_are_not_silent(store: Redis) -> None:
    presence, others = Presence(store, KEY, replica("one")), Replicas(store, KEY)
    assert presence.live == 1
    assert await counted(presence, NOW) == 1
    for name in ("two", "three"):
        await others.publish(replica(name, seen_us=NOW + MICRO))
    assert await counted(presence, NOW + MICRO) == 3
    await others.leave("two")
    assert await counted(presence, NOW + 2 * MICRO) == 2
    assert await counted(presence, NOW + 7 * MICRO) == 1


async def test_many_replicas_count_less_often(store: Redis) -> None:
    presence, others = Presence(store, KEY, replica("one")), Replicas(store, KEY)
    for number in range(29):
        await others.publish(replica(f"other{number}", seen_us=NOW))
    assert await counted(presence, NOW) == 30
    await others.leave("other0")
    assert await counted(presence, NOW + 2 * MICRO) == 30
    assert await counted(presence, NOW + 3 * MICRO) == 29


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

"""How a replica follows the policy on a real store: what comes into force, when, and what it tells of it."""

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.core.model import Limit
from ratelimitd.core.tiers import TierName
from ratelimitd.errors import StoreError
from ratelimitd.policy.text import DEFAULT_TEXT, digest_of
from ratelimitd.rollout.follower import PolicyFollower
from ratelimitd.rollout.replicas import Replica, Replicas
from ratelimitd.rollout.revisions import EXTERNAL, Revisions
from ratelimitd.store.client import open_client
from tests.limits import KEY, limits_json
from tests.replicas import replica
from tests.waiting import eventually

GOOD, BETTER = limits_json(), limits_json(user_capacity=6)
BAD = limits_json(user_rate=-1)
NEVER_S = 3600.0


def policies_of(store: Redis, name: str = "r1") -> PolicyFollower:
    """A replica that follows the store."""
    return PolicyFollower(store, KEY, replica(name))


async def told(store: Redis) -> dict[str, Replica]:
    """What the replicas tell of themselves."""
    look = await Revisions(store, KEY).snapshot()
    return {replica.id: replica for replica in await Replicas(store, KEY).live(look.now_us)}


async def commit(store: Redis, text: str) -> int:
    """A change as an operator makes it; the revision's number."""
    revisions = Revisions(store, KEY)
    look = await revisions.snapshot()
    done = await revisions.commit(text, author="alice", note="", expected=look.head, over=look.sha1)
    return done.number


async def until_in_force(policies: PolicyFollower, text: str) -> None:
    """Returns once this text is in force."""

    async def in_force() -> bool:
        return policies.current().digest == digest_of(text)

    await eventually(in_force, f"{text} in force")


@pytest.fixture
def polls_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll every 10 ms."""
    monkeypatch.setattr("ratelimitd.rollout.follower.POLL_INTERVAL_S", 0.01)


@pytest.fixture
def polls_never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a message brings news."""
    monkeypatch.setattr("ratelimitd.rollout.follower.POLL_INTERVAL_S", NEVER_S)


async def test_an_absent_key_means_the_defaults_and_is_no_revision(store: Redis) -> None:
    """500/50 for all, 100/5 a user, 20/2 a user on one API."""
    policies = policies_of(store)
    await policies.poll()
    assert policies.current().digest == digest_of(DEFAULT_TEXT)
    limits = [rule.limit for rule in policies.current().tiers.values()]
    assert limits == [Limit(500, 50.0), Limit(100, 5.0), Limit(20, 2.0)]
    assert (await Revisions(store, KEY).head()).number == 0


async def test_what_redis_cli_writes_is_in_force_at_the_next_poll_and_becomes_a_revision(
    store: Redis,
) -> None:
    """And its removal, which brings the defaults back. The key itself stays as it was left."""
    policies = policies_of(store)
    await store.set(KEY, GOOD)
    await policies.poll()
    assert policies.current().tiers[TierName.USER_API].limit == Limit(3, 1.0)
    await store.delete(KEY)
    await policies.poll()
    assert policies.current().digest == digest_of(DEFAULT_TEXT)
    history = await Revisions(store, KEY).history()
    assert [(one.number, one.author, one.text) for one in history] == [
        (2, EXTERNAL, DEFAULT_TEXT),
        (1, EXTERNAL, GOOD),
    ]
    assert await store.get(KEY) is None


async def test_a_write_seen_by_many_replicas_is_one_revision(store: Redis) -> None:
    """Whoever comes first records it; all run the same number."""
    await store.set(KEY, GOOD)
    replicas = [policies_of(store, f"r{n}") for n in range(5)]
    await asyncio.gather(*(one.poll() for one in replicas))
    for one in replicas:
        await one.poll()
    assert [one.number for one in await Revisions(store, KEY).history()] == [1]
    assert {one.number for one in (await told(store)).values()} == {1}


async def test_a_commit_is_told_at_once(store: Redis, polls_never: None) -> None:
    """By a message: no replica waits for its next poll."""
    del polls_never
    await store.set(KEY, GOOD)
    async with policies_of(store).watched() as policies:

        async def listens() -> bool:
            return bool((await store.pubsub_numsub(Revisions(store, KEY).channel))[0][1])

        await eventually(listens, "a subscription")
        await commit(store, BETTER)
        await until_in_force(policies, BETTER)


async def test_a_lost_message_is_made_good_by_the_poll(store: Redis, polls_often: None) -> None:
    """Also what redis-cli writes, which nobody tells of."""
    del polls_often
    await store.set(KEY, GOOD)
    async with policies_of(store).watched() as policies:
        assert policies.current().tiers[TierName.USER].limit == Limit(5, 1.0)
        await store.set(KEY, BETTER)
        await until_in_force(policies, BETTER)


async def test_a_lost_subscription_is_made_again(
    store: Redis, polls_never: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a broken connection messages are heard as before, and what was missed meanwhile is read."""
    del polls_never
    async with policies_of(store).watched() as policies:

        async def listens() -> bool:
            return bool((await store.pubsub_numsub(Revisions(store, KEY).channel))[0][1])

        await eventually(listens, "a subscription")
        monkeypatch.setattr("ratelimitd.rollout.follower.POLL_INTERVAL_S", 0.01)
        await store.client_kill_filter(_type="pubsub")
        await eventually(listens, "another subscription")
        await store.set(KEY, GOOD)
        await store.publish(Revisions(store, KEY).channel, "1")
        await until_in_force(policies, GOOD)


@pytest.mark.parametrize("bad", ["{", BAD, "\xff"])
async def test_a_bad_write_is_logged_and_told_and_changes_nothing(store: Redis, bad: str) -> None:
    """The last good policy stays for as long as the bad one stands; the next good one is taken."""
    policies = policies_of(store)
    await store.set(KEY, GOOD)
    await policies.poll()
    good = policies.current()
    await store.set(KEY, bad.encode("latin-1"))
    with capture_logs() as lines:
        await policies.poll()
        await policies.poll()
    assert policies.current() is good
    assert [(line["event"], line["log_level"]) for line in lines] == [("policy_refused", "error")]
    assert lines[0]["in_force"] == good.digest
    assert (await told(store))["r1"].refused == lines[0]["reason"]
    assert [one.text for one in await Revisions(store, KEY).history()] == [GOOD]
    await store.set(KEY, BETTER)
    await policies.poll()
    assert policies.current().digest == digest_of(BETTER)
    assert (await told(store))["r1"].refused is None


async def test_the_last_good_policy_stays_across_a_restart(store: Redis) -> None:
    """A replica that starts beside a bad text takes the newest revision, not the defaults."""
    number = await commit(store, GOOD)
    await store.set(KEY, BAD)
    restarted = policies_of(store, "r2")
    await restarted.poll()
    assert restarted.current().digest == digest_of(GOOD)
    assert (await told(store))["r2"].number == number


async def test_a_commit_that_was_overwritten_by_a_bad_text_is_in_force_all_the_same(store: Redis) -> None:
    """Though this replica saw it only when the bad text stood there already."""
    policies = policies_of(store)
    await commit(store, GOOD)
    await policies.poll()
    await commit(store, BETTER)
    await store.set(KEY, BAD)
    await policies.poll()
    assert policies.current().digest == digest_of(BETTER)


@pytest.mark.parametrize("newest", ["nonsense", None, BAD])
async def test_a_newest_revision_that_cannot_be_read_gives_way_to_the_one_before(
    store: Redis, newest: str | None
) -> None:
    """Damaged, lost, or with words that only a later version knows: a start and a running replica agree."""
    await commit(store, GOOD)
    running = policies_of(store)
    await running.poll()
    await commit(store, BAD)
    history = f"{{{KEY}}}:revisions"
    if newest is None:
        await store.hdel(history, "2")
    elif newest != BAD:
        await store.hset(history, "2", newest)
    await store.set(KEY, BAD)
    started = policies_of(store, "r2")
    for policies in (running, started):
        with capture_logs() as lines:
            await policies.poll()
        assert policies.current().digest == digest_of(GOOD)
        assert "revision_unread" in [line["event"] for line in lines]
    assert {one.number for one in (await told(store)).values()} == {1}


async def test_a_lost_history_beside_a_bad_text_takes_nothing_from_who_runs(store: Redis) -> None:
    """A start knows nothing better than the defaults; a running replica does, and keeps it."""
    await commit(store, GOOD)
    running = policies_of(store)
    await running.poll()
    await store.delete(f"{{{KEY}}}:revisions")
    await store.set(KEY, BAD)
    started = policies_of(store, "r2")
    for policies in (running, started):
        await policies.poll()
    assert running.current().digest == digest_of(GOOD)
    assert started.current().digest == digest_of(DEFAULT_TEXT)


async def test_a_key_of_another_type_is_refused_like_a_bad_policy(store: Redis) -> None:
    """HSET instead of SET is a mistake of the writer, no outage."""
    await store.hset(KEY, "user_rate", "1")
    policies = policies_of(store)
    with capture_logs() as lines:
        await policies.poll()
    assert policies.current().digest == digest_of(DEFAULT_TEXT)
    assert "must be a string" in next(x["reason"] for x in lines if x["event"] == "policy_refused")


async def test_without_a_store_no_policy_is_made_up(tmp_path: Path) -> None:
    """Until it could be read once, nothing can be decided; one line says so, not one a second."""
    async with open_client(f"unix://{tmp_path}/none.sock") as client:
        policies = policies_of(client)
        with capture_logs() as lines:
            await policies.poll()
            await policies.poll()
        with pytest.raises(StoreError, match="no policy could be read"):
            policies.current()
    assert [line["event"] for line in lines] == ["policy_unread"]


async def test_who_may_not_write_follows_the_policy_all_the_same(store: Redis) -> None:
    """A store that refuses what only people want to know: one line, and the policy is in force."""
    await store.set(KEY, GOOD)
    await store.set(f"{{{KEY}}}:replicas", "no hash")
    policies = policies_of(store)
    with capture_logs() as lines:
        await policies.poll()
        await policies.poll()
    assert policies.current().digest == digest_of(GOOD)
    assert [line["event"] for line in lines].count("replica_untold") == 1


async def test_a_change_and_a_reset_are_passed_on(store: Redis, polls_often: None) -> None:
    """What remembers denials is told of both, and of nothing else."""
    del polls_often
    calls: list[str] = []
    reset = asyncio.Event()

    def on_reset() -> None:
        calls.append("reset")
        reset.set()

    policies = PolicyFollower(
        store, KEY, replica(), on_change=lambda: calls.append("change"), on_reset=on_reset
    )
    async with policies.watched():
        await commit(store, GOOD)
        await until_in_force(policies, GOOD)

        async def listens() -> bool:
            return bool((await store.pubsub_numsub(Revisions(store, KEY).channel))[0][1])

        await eventually(listens, "a subscription")
        await Revisions(store, KEY).announce_reset()
        await reset.wait()
        await store.set(KEY, BAD)
        await policies.poll()
        await store.set(KEY, GOOD)
        await policies.poll()
    assert calls == ["change", "change", "reset"]  # the first change is the defaults


async def test_what_would_have_been_denied_in_shadow_is_published_once(store: Redis) -> None:
    """Under the revision that ran, added up over replicas."""
    await store.set(KEY, GOOD)
    replicas = [policies_of(store, name) for name in ("r1", "r2")]
    for one in replicas:
        await one.poll()
        one.shadow_counts.counts["tiers.user"] += 1
        one.shadow_counts.counts["tiers.user"] += 1
    for one in (*replicas, *replicas):
        await one.poll()
    assert await Replicas(store, KEY).shadow(1) == {"tiers.user": 4}


async def test_what_shadow_counted_before_a_change_stands_under_the_revision_of_then(store: Redis) -> None:
    """A new policy does not begin with what another one would have denied."""
    await commit(store, GOOD)
    policies = policies_of(store)
    await policies.poll()
    policies.shadow_counts.counts["tiers.user"] += 1
    await commit(store, BETTER)
    await policies.poll()
    policies.shadow_counts.counts["routes[0]"] += 1
    await policies.poll()
    replicas = Replicas(store, KEY)
    assert [await replicas.shadow(number) for number in (1, 2)] == [{"tiers.user": 1}, {"routes[0]": 1}]


async def test_a_replica_that_stops_is_not_listed_any_more(store: Redis) -> None:
    """At once, not after some seconds of silence."""
    async with policies_of(store).watched():
        assert (await told(store)).keys() == {"r1"}
    assert await told(store) == {}


async def test_a_defect_in_a_poll_does_not_end_the_watch(
    store: Redis, polls_often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and the next poll is tried."""
    del polls_often
    policies = policies_of(store)
    healthy = policies.poll
    broken = asyncio.Event()

    async def poll() -> None:
        if not broken.is_set():
            broken.set()
            raise ZeroDivisionError
        await healthy()

    async with policies.watched():
        await store.set(KEY, GOOD)
        monkeypatch.setattr(policies, "poll", poll)
        with capture_logs() as lines:
            await broken.wait()
            await until_in_force(policies, GOOD)
    assert "policy_poll_broke" in [line["event"] for line in lines]

"""How a replica follows the policy on a real store: what comes into force, when, and what it publishes."""

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
from ratelimitd.rollout.revision import EXTERNAL
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.rollout.snapshot import revisions_key
from ratelimitd.store.client import open_client
from tests.eventually import eventually
from tests.example_limits import KEY, limits_json
from tests.replicas import replica

GOOD, BETTER = limits_json(), limits_json(user_capacity=6)
BAD = limits_json(user_rate=-1)
NEVER_S, POLL_S = 3600.0, 0.01


def follower(store: Redis, name: str = "r1", poll_interval_s: float = NEVER_S) -> PolicyFollower:
    """Returns a replica that follows the store. By default only the test makes it poll."""
    return PolicyFollower(
        store, KEY, replica(name), poll_interval_s=poll_interval_s, resubscribe_interval_s=0.01
    )


async def published(store: Redis) -> dict[str, Replica]:
    """Returns the entries of the live replicas, by id."""
    snapshot = await Revisions(store, KEY).snapshot()
    return {one.id: one for one in await Replicas(store, KEY).listed(snapshot.now_us)}


async def commit(store: Redis, text: str) -> int:
    """Changes the policy as an operator does, and returns the revision's number."""
    revisions = Revisions(store, KEY)
    seen = await revisions.snapshot()
    done = await revisions.commit(text, author="alice", note="", expected=seen.head, over=seen.sha1)
    return done.number


async def until_subscribed(store: Redis) -> None:
    """Returns once a replica listens on the channel."""
    channel = Revisions(store, KEY).channel

    async def subscribed() -> bool:
        return bool((await store.pubsub_numsub(channel))[0][1])

    await eventually(subscribed, "a subscription")


async def until_in_force(policies: PolicyFollower, text: str) -> None:
    """Returns once this text is in force."""

    async def in_force() -> bool:
        return policies.current().digest == digest_of(text)

    await eventually(in_force, f"{text} in force")


async def test_an_absent_key_is_the_default_policy_and_not_a_revision(store: Redis) -> None:
    policies = follower(store)
    await policies.poll()
    assert policies.current().digest == digest_of(DEFAULT_TEXT)
    limits = [rule.limit for rule in policies.current().tiers.values()]
    assert limits == [Limit(500, 50.0), Limit(100, 5.0), Limit(20, 2.0)]
    assert (await Revisions(store, KEY).head()).number == 0


async def test_a_direct_write_is_in_force_at_the_next_poll_as_a_new_revision(
    store: Redis,
) -> None:
    """Deleting the key puts the default policy in force, also as a new revision."""
    policies = follower(store)
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


async def test_a_direct_write_read_by_many_replicas_is_one_revision(store: Redis) -> None:
    await store.set(KEY, GOOD)
    replicas = [follower(store, f"r{n}") for n in range(5)]
    await asyncio.gather(*(one.poll() for one in replicas))
    for one in replicas:
        await one.poll()
    assert [one.number for one in await Revisions(store, KEY).history()] == [1]
    assert {one.number for one in (await published(store)).values()} == {1}


async def test_a_commit_is_in_force_before_the_next_poll(store: Redis) -> None:
    await store.set(KEY, GOOD)
    async with follower(store).following() as policies:
        await until_subscribed(store)
        await commit(store, BETTER)
        await until_in_force(policies, BETTER)


async def test_a_change_without_a_message_is_in_force_at_the_next_poll(store: Redis) -> None:
    await store.set(KEY, GOOD)
    async with follower(store, poll_interval_s=POLL_S).following() as policies:
        assert policies.current().tiers[TierName.USER].limit == Limit(5, 1.0)
        await store.set(KEY, BETTER)
        await until_in_force(policies, BETTER)


async def test_a_lost_subscription_is_renewed(store: Redis) -> None:
    async with follower(store).following() as policies:
        await until_subscribed(store)
        await store.client_kill_filter(_type="pubsub")
        await until_subscribed(store)
        await store.set(KEY, GOOD)
        await store.publish(Revisions(store, KEY).channel, "1")
        await until_in_force(policies, GOOD)


@pytest.mark.parametrize("bad", ["{", BAD, "\xff"])
async def test_an_invalid_write_is_logged_and_published_and_changes_nothing(store: Redis, bad: str) -> None:
    """The last good policy stays in force until the next valid text."""
    policies = follower(store)
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
    assert (await published(store))["r1"].refused == lines[0]["reason"]
    assert [one.text for one in await Revisions(store, KEY).history()] == [GOOD]
    await store.set(KEY, BETTER)
    await policies.poll()
    assert policies.current().digest == digest_of(BETTER)
    assert (await published(store))["r1"].refused is None


async def test_the_last_good_policy_survives_a_restart(store: Redis) -> None:
    """A replica that starts beside an invalid text takes the newest revision, not the default policy."""
    number = await commit(store, GOOD)
    await store.set(KEY, BAD)
    restarted = follower(store, "r2")
    await restarted.poll()
    assert restarted.current().digest == digest_of(GOOD)
    assert (await published(store))["r2"].number == number


async def test_a_commit_overwritten_by_an_invalid_text_is_in_force(store: Redis) -> None:
    """The replica polls only after the invalid text was written."""
    policies = follower(store)
    await commit(store, GOOD)
    await policies.poll()
    await commit(store, BETTER)
    await store.set(KEY, BAD)
    await policies.poll()
    assert policies.current().digest == digest_of(BETTER)


@pytest.mark.parametrize("newest", ["nonsense", None, BAD])
async def test_before_an_unreadable_newest_revision_the_previous_one_is_in_force(
    store: Redis, newest: str | None
) -> None:
    """It may be damaged, lost, or use fields of a later version. A start and a running replica agree."""
    await commit(store, GOOD)
    running = follower(store)
    await running.poll()
    await commit(store, BAD)
    history = f"{{{KEY}}}:revisions"
    if newest is None:
        await store.hdel(history, "2")
    elif newest != BAD:
        await store.hset(history, "2", newest)
    await store.set(KEY, BAD)
    started = follower(store, "r2")
    for policies in (running, started):
        with capture_logs() as lines:
            await policies.poll()
        assert policies.current().digest == digest_of(GOOD)
        assert "revision_unreadable" in [line["event"] for line in lines]
    assert {one.number for one in (await published(store)).values()} == {1}


async def test_a_running_replica_keeps_its_policy_when_the_history_is_lost(store: Redis) -> None:
    """A replica that starts then falls back to the default policy."""
    await commit(store, GOOD)
    running = follower(store)
    await running.poll()
    await store.delete(f"{{{KEY}}}:revisions")
    await store.set(KEY, BAD)
    started = follower(store, "r2")
    for policies in (running, started):
        await policies.poll()
    assert running.current().digest == digest_of(GOOD)
    assert started.current().digest == digest_of(DEFAULT_TEXT)


async def test_a_key_of_another_type_is_refused_like_an_invalid_policy(store: Redis) -> None:
    await store.hset(KEY, "user_rate", "1")
    policies = follower(store)
    with capture_logs() as lines:
        await policies.poll()
    assert policies.current().digest == digest_of(DEFAULT_TEXT)
    assert "must be a string" in next(x["reason"] for x in lines if x["event"] == "policy_refused")


async def test_a_replica_that_starts_without_readable_revisions_runs_the_text(store: Redis) -> None:
    """It is a revision once the key of another type is deleted."""
    await store.set(KEY, limits_json())
    await store.set(revisions_key(KEY), "x")
    started = PolicyFollower(store, KEY, replica("r1"))
    with capture_logs() as lines:
        for _ in range(2):
            await started.poll()
    assert [line["event"] for line in lines] == ["policy_in_force", "policy_read_failed"]
    assert f"the key {revisions_key(KEY)} must be a hash" in lines[1]["reason"]
    assert started.current().digest == digest_of(limits_json())
    await store.delete(revisions_key(KEY))
    await started.poll()
    assert (await Revisions(store, KEY).head()).text == limits_json()


@pytest.mark.parametrize("text", [None, "{"])
async def test_without_readable_revisions_and_a_valid_text_there_is_no_policy(
    store: Redis, text: str | None
) -> None:
    await store.set(revisions_key(KEY), "x")
    if text is not None:
        await store.set(KEY, text)
    started = PolicyFollower(store, KEY, replica("r1"))
    await started.poll()
    with pytest.raises(StoreError, match="no policy could be read"):
        started.current()


async def test_without_a_store_there_is_no_policy_and_one_log_line(tmp_path: Path) -> None:
    async with open_client(f"unix://{tmp_path}/none.sock") as client:
        policies = follower(client)
        with capture_logs() as lines:
            await policies.poll()
            await policies.poll()
        with pytest.raises(StoreError, match="no policy could be read"):
            policies.current()
    assert [line["event"] for line in lines] == ["policy_read_failed"]


async def test_a_store_that_fails_at_every_other_poll_is_one_line(store: Redis) -> None:
    policies = follower(store)
    with capture_logs() as lines:
        for _ in range(3):
            await store.set(f"{{{KEY}}}:revisions", "not a hash")
            await policies.poll()
            await store.delete(f"{{{KEY}}}:revisions")
            await policies.poll()
    assert [line["event"] for line in lines].count("policy_read_failed") == 1


async def test_a_replica_that_cannot_publish_its_entry_follows_the_policy(store: Redis) -> None:
    await store.set(KEY, GOOD)
    await store.set(f"{{{KEY}}}:replicas", "no hash")
    policies = follower(store)
    with capture_logs() as lines:
        await policies.poll()
        await policies.poll()
    assert policies.current().digest == digest_of(GOOD)
    assert [line["event"] for line in lines].count("replica_publish_failed") == 1


async def test_changes_and_resets_call_back_and_nothing_else_does(store: Redis) -> None:
    calls: list[str] = []
    reset = asyncio.Event()

    def on_reset() -> None:
        calls.append("reset")
        reset.set()

    policies = PolicyFollower(
        store,
        KEY,
        replica(),
        on_change=lambda: calls.append("change"),
        on_reset=on_reset,
        poll_interval_s=POLL_S,
    )
    async with policies.following():
        await commit(store, GOOD)
        await until_in_force(policies, GOOD)
        await until_subscribed(store)
        await Revisions(store, KEY).announce_reset()
        await reset.wait()
        await store.set(KEY, BAD)
        await policies.poll()
        await store.set(KEY, GOOD)
        await policies.poll()
    assert calls == ["change", "change", "reset"]  # the first change is the defaults


async def test_shadow_counts_of_replicas_are_published_once(store: Redis) -> None:
    await store.set(KEY, GOOD)
    replicas = [follower(store, name) for name in ("r1", "r2")]
    for one in replicas:
        await one.poll()
        one.shadow_counts.counts["tiers.user"] += 1
        one.shadow_counts.counts["tiers.user"] += 1
    for one in (*replicas, *replicas):
        await one.poll()
    assert await Replicas(store, KEY).shadow(1) == {"tiers.user": 4}


async def test_shadow_counts_stay_with_the_revision_that_was_in_force(store: Redis) -> None:
    await commit(store, GOOD)
    policies = follower(store)
    await policies.poll()
    policies.shadow_counts.counts["tiers.user"] += 1
    await commit(store, BETTER)
    await policies.poll()
    policies.shadow_counts.counts["routes[0]"] += 1
    await policies.poll()
    replicas = Replicas(store, KEY)
    assert [await replicas.shadow(number) for number in (1, 2)] == [{"tiers.user": 1}, {"routes[0]": 1}]


async def test_a_replica_that_stops_is_not_listed(store: Redis) -> None:
    async with follower(store).following():
        assert (await published(store)).keys() == {"r1"}
    assert await published(store) == {}


async def test_a_defect_in_a_poll_is_logged_and_polling_goes_on(
    store: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = follower(store, poll_interval_s=POLL_S)
    healthy = policies.poll
    broken = asyncio.Event()

    async def poll() -> None:
        if not broken.is_set():
            broken.set()
            raise ZeroDivisionError
        await healthy()

    async with policies.following():
        await store.set(KEY, GOOD)
        monkeypatch.setattr(policies, "poll", poll)
        with capture_logs() as lines:
            await broken.wait()
            await until_in_force(policies, GOOD)
    assert "policy_poll_failed" in [line["event"] for line in lines]

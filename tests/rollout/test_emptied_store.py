"""A store that is emptied: replicas keep their policy, and operators write it back."""

import json

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.control.control import Control
from ratelimitd.errors import ConflictError, NothingLostError
from ratelimitd.policy.text import DEFAULT_TEXT, digest_of
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.follower import PolicyFollower
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.rollout.snapshot import LostPolicy, lost_key, revisions_key, write_lost
from ratelimitd.settings import load
from tests.example_limits import KEY, limits_json
from tests.replicas import replica

GOOD, BETTER = limits_json(), limits_json(user_capacity=6)
LOST, REVISIONS = lost_key(KEY), revisions_key(KEY)


@pytest.fixture
def control(store: Redis) -> Control:
    """Returns the control of an empty store."""
    return Control(store, load({}, {}))


def follower(store: Redis, name: str = "r1") -> PolicyFollower:
    """Returns a replica that polls only when the test says so."""
    return PolicyFollower(store, KEY, replica(name))


async def applied(control: Control, text: str) -> int:
    """Applies a text and returns the number of its revision."""
    return (await control.apply(text, author="alice", note="", expected=None)).revision.number


async def running(store: Redis, control: Control, *texts: str) -> PolicyFollower:
    """Returns a replica that runs the last of these texts, in a store that was emptied after that."""
    policies = follower(store)
    for text in texts:
        await applied(control, text)
        await policies.poll()
    await store.flushall()
    return policies


async def test_a_replica_keeps_its_policy_and_logs_one_error(store: Redis, control: Control) -> None:
    policies = await running(store, control, GOOD, BETTER)
    with capture_logs() as lines:
        for _ in range(3):
            await policies.poll()
    assert policies.current().digest == digest_of(BETTER)
    assert [(line["event"], line["log_level"], line["number"]) for line in lines] == [
        ("policy_lost", "error", 2)
    ]
    assert await store.exists(KEY, REVISIONS) == 0
    lost = json.loads(await store.get(LOST) or "")
    assert (lost["number"], lost["text"]) == (2, BETTER)


async def test_operators_see_the_lost_policy_as_the_one_in_force(store: Redis, control: Control) -> None:
    policies = await running(store, control, GOOD, BETTER)
    assert (await control.status()).lost_us == 0
    await policies.poll()
    status = await control.status()
    assert status.lost_us > 0
    assert (status.revision.number, status.revision.digest, status.recorded) == (2, digest_of(BETTER), False)
    assert [(one.number, one.behind) for one in status.replicas] == [(2, False)]
    assert (await control.current()).revision.text == BETTER
    assert (await control.revision(2)).text == BETTER
    assert [one.number for one in await control.history()] == [2]


async def test_a_replica_that_starts_then_runs_the_lost_policy(store: Redis, control: Control) -> None:
    await (await running(store, control, GOOD)).poll()
    started = follower(store, "r2")
    with capture_logs() as lines:
        await started.poll()
    assert started.current().digest == digest_of(GOOD)
    assert [line["event"] for line in lines] == ["policy_in_force", "policy_lost"]


async def test_a_replica_that_started_before_the_loss_was_noticed_follows(
    store: Redis, control: Control
) -> None:
    policies = await running(store, control, GOOD)
    started = follower(store, "r2")
    await started.poll()
    assert started.current().digest == digest_of(DEFAULT_TEXT)
    await policies.poll()
    await started.poll()
    assert started.current().digest == digest_of(GOOD)


async def test_of_two_replicas_the_newer_revision_is_the_lost_policy(store: Redis, control: Control) -> None:
    old = follower(store, "old")
    await applied(control, GOOD)
    await old.poll()
    new = await running(store, control, BETTER)
    for one in (old, new, old):
        await one.poll()
    assert old.current().digest == new.current().digest == digest_of(BETTER)
    assert (await control.current()).revision.number == 2


async def test_restore_writes_the_policy_back_as_the_next_revision(store: Redis, control: Control) -> None:
    policies = await running(store, control, GOOD, BETTER)
    await policies.poll()
    restored = (await control.restore(author="bob", note="", expected=Expected(2))).revision
    assert (restored.number, restored.text, restored.author) == (3, BETTER, "bob")
    assert restored.note == "restored after the store was emptied"
    assert await store.get(KEY) == BETTER.encode()
    assert await store.exists(LOST) == 0
    with capture_logs() as lines:
        await policies.poll()
    assert [line["event"] for line in lines] == ["policy_replaced"]
    assert (await control.wait(3, 0)).lost_us == 0
    with pytest.raises(NothingLostError, match="there is nothing to restore"):
        await control.restore(author="bob", note="", expected=None)


@pytest.mark.parametrize("text", [GOOD, DEFAULT_TEXT])
async def test_any_other_policy_replaces_the_lost_one(store: Redis, control: Control, text: str) -> None:
    policies = await running(store, control, GOOD, BETTER)
    await policies.poll()
    with pytest.raises(ConflictError, match="revision 2 was accepted meanwhile"):
        await control.apply(text, author="bob", note="", expected=Expected(1))
    assert await applied(control, text) == 3
    await policies.poll()
    assert policies.current().digest == digest_of(text)
    assert await store.exists(LOST) == 0


async def test_a_direct_write_replaces_the_lost_policy(store: Redis, control: Control) -> None:
    policies = await running(store, control, GOOD)
    await policies.poll()
    await store.set(KEY, BETTER)
    await policies.poll()
    assert policies.current().digest == digest_of(BETTER)
    assert (await control.current()).revision.number == 2
    assert await store.exists(LOST) == 0


async def test_an_invalid_direct_write_leaves_the_lost_policy_in_force(
    store: Redis, control: Control
) -> None:
    await (await running(store, control, GOOD)).poll()
    await store.set(KEY, "{")
    started = follower(store, "r2")
    await started.poll()
    assert started.current().digest == digest_of(GOOD)
    current = await control.current()
    assert (current.revision.text, len(current.refused)) == (GOOD, 1)
    assert (await control.restore(author="bob", note="", expected=None)).revision.number == 2


async def test_a_store_that_is_emptied_again_and_again_keeps_the_policy(
    store: Redis, control: Control
) -> None:
    policies = await running(store, control, GOOD)
    with capture_logs() as lines:
        for _ in range(20):
            await policies.poll()
            await store.flushall()
    assert policies.current().digest == digest_of(GOOD)
    assert [line["event"] for line in lines].count("policy_lost") == 1


async def test_a_replica_that_ran_the_defaults_loses_nothing(store: Redis, control: Control) -> None:
    """Neither does one whose key was deleted."""
    never, deleted = follower(store), follower(store, "r2")
    await never.poll()
    await store.flushall()
    with capture_logs() as lines:
        await never.poll()
    await applied(control, GOOD)
    await store.delete(KEY)
    await deleted.poll()
    assert deleted.current().digest == digest_of(DEFAULT_TEXT)
    await store.flushall()
    with capture_logs() as more:
        await deleted.poll()
    assert lines + more == []
    assert await store.exists(LOST) == 0


async def test_lost_revisions_beside_a_policy_are_no_loss_of_the_policy(
    store: Redis, control: Control
) -> None:
    policies = follower(store)
    await applied(control, GOOD)
    await policies.poll()
    await store.delete(REVISIONS)
    await policies.poll()
    assert policies.current().digest == digest_of(GOOD)
    assert (await control.current()).recorded
    assert (await control.status()).lost_us == 0


async def test_a_lost_policy_of_a_later_version_is_refused(store: Redis, control: Control) -> None:
    """A replica that starts beside it runs the defaults, and says why."""
    await write_lost(store, KEY, LostPolicy(number=4, noticed_us=1, text="later: 1"))
    policies = follower(store)
    with capture_logs() as lines:
        await policies.poll()
    assert policies.current().digest == digest_of(DEFAULT_TEXT)
    assert "policy_refused" in [line["event"] for line in lines]
    assert await applied(control, GOOD) == 5


@pytest.mark.parametrize("damaged", ["", "{", '{"number": "x"}'])
async def test_a_damaged_lost_policy_counts_as_absent(store: Redis, control: Control, damaged: str) -> None:
    policies = await running(store, control, GOOD)
    await store.set(LOST, damaged)
    assert (await control.current()).revision.number == 0
    await policies.poll()
    assert (await control.current()).revision.text == GOOD
    await store.flushall()
    await store.rpush(LOST, "a list")
    await policies.poll()
    assert (await control.current()).revision.text == GOOD
    assert (await Revisions(store, KEY).snapshot()).is_lost

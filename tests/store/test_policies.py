"""The limits: what is accepted, what is refused and in which words, and how a change arrives."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.core.model import Limit, PolicySet, TierName
from ratelimitd.errors import PolicyError, StoreError
from ratelimitd.policy.redis_policies import RedisPolicies
from ratelimitd.policy.seed import DEFAULT, MAX_BYTES, parse, policy_set
from ratelimitd.store.client import open_client
from tests.limits import KEY, limits_json
from tests.waiting import eventually


def test_the_seed_form_is_read_exactly() -> None:
    """Six numbers, three limits, tokens per second."""
    assert policy_set(parse(limits_json(user_rate=0.25))).limits == {
        TierName.GLOBAL: Limit(10, 1.0),
        TierName.USER: Limit(5, 0.25),
        TierName.USER_API: Limit(3, 1.0),
    }


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (limits_json(user_rate=-1), "user_rate: must be greater than or equal to 0.000001, got -1"),
        (limits_json(user_rate=0), "user_rate: must be greater than or equal to 0.000001, got 0"),
        (limits_json(user_capacity=0), "user_capacity: must be greater than or equal to 1, got 0"),
        (limits_json(user_capacity=-5), "user_capacity: must be greater than or equal to 1, got -5"),
        (limits_json(user_capacity=1.5), "user_capacity: must be a valid integer, got 1.5"),
        (limits_json(user_capacity="5"), "user_capacity: must be a valid integer, got '5'"),
        (limits_json(user_capacity=True), "user_capacity: must be a valid integer, got True"),
        (limits_json(global_capacity=10**10), "global_capacity: must be less than or equal to 1000000000"),
        (limits_json(global_capacity=10**400), "global_capacity: "),
        (limits_json(user_rate=1e300), "user_rate: must be less than or equal to 1000000000"),
        (limits_json(user_rate=float("nan")), "user_rate: must be a finite number, got nan"),
        (limits_json(user_rate=float("inf")), "user_rate: must be a finite number, got inf"),
        (limits_json(user_rate="fast"), "user_rate: must be a valid number, got 'fast'"),
        (limits_json(user_rate=[1]), "user_rate: must be a valid number, got [1]"),
        (limits_json(user_rate=None), "user_rate: field required"),
        (limits_json(user_ratte=1), "user_ratte: extra inputs are not permitted, got 1"),
        ("[]", "must be an object"),
        ("", "invalid JSON"),
        ("{", "invalid JSON"),
        ("null", "must be an object"),
        (" " * (MAX_BYTES + 1), "it has 1048577 bytes; the most is 1048576"),
    ],
)
def test_a_bad_policy_is_refused_with_its_reason(bad: str, reason: str) -> None:
    """The sentence names the field, what it must be, and what was written."""
    with pytest.raises(PolicyError) as error:
        parse(bad)
    assert reason in str(error.value)


def test_all_mistakes_are_named_at_once() -> None:
    """Nobody fixes one only to learn of the next."""
    with pytest.raises(PolicyError, match=r"global_rate: .*; user_capacity: "):
        parse(limits_json(global_rate=-1, user_capacity=0))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists) | st.binary())
def test_no_value_at_all_breaks_the_parser(value: Any) -> None:
    """Whatever somebody writes, it is accepted or refused."""
    with pytest.raises(PolicyError):
        parse(value if isinstance(value, bytes) else json.dumps(value))


def test_equal_limits_have_equal_revisions() -> None:
    """Spelling does not matter, a number does."""
    one = policy_set(parse(limits_json()))
    assert one.revision == policy_set(parse(limits_json(user_rate=1.0))).revision
    assert one.revision != policy_set(parse(limits_json(user_rate=1.5))).revision


async def test_an_absent_key_means_the_defaults(store: Redis) -> None:
    """500/50 for all, 100/5 a user, 20/2 a user on one API."""
    policies = RedisPolicies(store, KEY)
    await policies.poll()
    assert policies.current() == policy_set(DEFAULT)
    assert list(policies.current().limits.values()) == [Limit(500, 50.0), Limit(100, 5.0), Limit(20, 2.0)]


async def test_a_written_policy_is_in_force_at_the_next_poll(store: Redis) -> None:
    """And its removal brings the defaults back."""
    policies = RedisPolicies(store, KEY)
    await store.set(KEY, limits_json())
    await policies.poll()
    assert policies.current().limits[TierName.USER_API] == Limit(3, 1.0)
    await store.delete(KEY)
    await policies.poll()
    assert policies.current() == policy_set(DEFAULT)


@pytest.mark.parametrize("bad", ["{", limits_json(user_rate=-1)])
async def test_a_bad_write_is_logged_once_and_changes_nothing(store: Redis, bad: str) -> None:
    """The last good policy stays for as long as the bad one stands; the next good one is taken."""
    policies = RedisPolicies(store, KEY)
    await store.set(KEY, limits_json())
    await policies.poll()
    good = policies.current()
    await store.set(KEY, bad)
    with capture_logs() as lines:
        await policies.poll()
        await policies.poll()
    assert policies.current() is good
    assert [(line["event"], line["log_level"]) for line in lines] == [("policy_refused", "error")]
    assert lines[0]["in_force"] == good.revision
    await store.set(KEY, limits_json(user_rate=2))
    await policies.poll()
    assert policies.current().limits[TierName.USER] == Limit(5, 2.0)


async def test_a_key_of_another_type_is_refused_like_a_bad_policy(store: Redis) -> None:
    """HSET instead of SET is a mistake of the writer, no outage."""
    await store.hset(KEY, "user_rate", "1")
    policies = RedisPolicies(store, KEY)
    with capture_logs() as lines:
        await policies.poll()
    assert policies.current() == policy_set(DEFAULT)
    assert "must be a string of JSON" in next(x["reason"] for x in lines if x["event"] == "policy_refused")


async def test_without_a_store_no_policy_is_made_up(tmp_path: Path) -> None:
    """Until it could be read once, nothing can be decided; one line says so, not one a second."""
    async with open_client(f"unix://{tmp_path}/none.sock") as client:
        policies = RedisPolicies(client, KEY)
        with capture_logs() as lines:
            await policies.poll()
            await policies.poll()
        with pytest.raises(StoreError, match="no policy could be read"):
            policies.current()
    assert [line["event"] for line in lines] == ["policy_unread"]


async def test_a_watched_policy_follows_the_store(store: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first read is done when the block begins, and changes arrive by themselves."""
    monkeypatch.setattr("ratelimitd.policy.redis_policies.POLL_INTERVAL_S", 0.01)
    await store.set(KEY, limits_json())
    async with RedisPolicies(store, KEY).watched() as policies:
        assert policies.current().limits[TierName.USER] == Limit(5, 1.0)
        await store.set(KEY, limits_json(user_capacity=6))
        await _until(policies, policy_set(parse(limits_json(user_capacity=6))))


async def test_a_defect_in_a_poll_does_not_end_the_watch(
    store: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and the next poll is tried."""
    monkeypatch.setattr("ratelimitd.policy.redis_policies.POLL_INTERVAL_S", 0.01)
    policies = RedisPolicies(store, KEY)
    healthy = policies.poll
    broken = asyncio.Event()

    async def poll() -> None:
        if not broken.is_set():
            broken.set()
            raise ZeroDivisionError
        await healthy()

    async with policies.watched():
        await store.set(KEY, limits_json())
        monkeypatch.setattr(policies, "poll", poll)
        with capture_logs() as lines:
            await broken.wait()
            await _until(policies, policy_set(parse(limits_json())))
    assert "policy_poll_broke" in [line["event"] for line in lines]


async def _until(policies: RedisPolicies, expected: PolicySet) -> None:
    async def in_force() -> bool:
        return policies.current() == expected

    await eventually(in_force, f"revision {expected.revision} in force")

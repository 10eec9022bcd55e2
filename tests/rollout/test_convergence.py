"""Replicas that poll converge to the newest valid policy, whatever operators, redis-cli and restarts do."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from ratelimitd.control.control import Control
from ratelimitd.errors import ConflictError
from ratelimitd.policy.text import DEFAULT_TEXT, digest_of
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.follower import PolicyFollower
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.settings import Settings, load
from ratelimitd.store.client import open_client
from tests.example_limits import KEY, limits_json
from tests.replicas import replica

SETTINGS: Settings = load({}, {})
REPLICAS = 3
VALID = st.integers(1, 9).map(lambda capacity: limits_json(user_capacity=capacity))
INVALID = st.sampled_from(["{", "[]", limits_json(user_rate=-1), "tiers: {}"])


class Fleet(RuleBasedStateMachine):
    """Replicas that poll when the machine lets them. A lost message is a poll that never comes.

    `accepted` is the text that must be in force. `at_key` is the text at the config key; it may be one that
    redis-cli wrote and no replica has read yet.
    """

    url = ""

    @initialize()
    def begin(self) -> None:
        """Begins with an empty store and replicas that run the default policy."""
        self.runner = asyncio.Runner()
        self.client: Redis = self.run(self._open())
        self.control = Control(self.client, SETTINGS)
        self.replicas = [self.started(at) for at in range(REPLICAS)]
        self.accepted, self.at_key = DEFAULT_TEXT, DEFAULT_TEXT
        self.valid = True
        self.everything = {digest_of(DEFAULT_TEXT)}

    def run(self, coroutine: Any) -> Any:
        """Returns the result of a coroutine, run on the machine's own event loop."""
        return self.runner.run(coroutine)

    async def _open(self) -> Redis:
        self.opened = open_client(self.url)
        client = await self.opened.__aenter__()
        await client.flushall()
        return client

    def started(self, at: int) -> PolicyFollower:
        """Returns a replica that has just started: it has polled once."""
        follower = PolicyFollower(self.client, KEY, replica(f"r{at}"))
        self.run(follower.poll())
        return follower

    def read(self) -> None:
        """Notes that a replica or an operator read the key: a valid text there is accepted."""
        if self.valid and self.at_key != self.accepted:
            self.accepted = self.at_key
        self.everything.add(digest_of(self.accepted))

    @rule(text=VALID)
    def apply(self, text: str) -> None:
        """Changes the policy as an operator."""
        self.read()
        self.run(self.control.apply(text, author="alice", note="", expected=None))
        self.accepted, self.at_key, self.valid = text, text, True
        self.everything.add(digest_of(text))

    @rule(text=VALID)
    def apply_on_an_old_number(self, text: str) -> None:
        """Changes the policy with an outdated number: it is a conflict, and nothing is written."""
        self.read()
        number = self.run(self.control.current()).revision.number
        with pytest.raises(ConflictError):
            self.run(self.control.apply(text, author="bob", note="", expected=Expected(number + 1)))

    @rule(back=st.integers(0, 3))
    def rollback(self, back: int) -> None:
        """Rolls back to one of the newest revisions."""
        self.read()
        history = self.run(self.control.history(4))
        if not history:
            return
        to = history[min(back, len(history) - 1)]
        self.run(self.control.rollback(to.number, author="alice", note="", expected=None))
        self.accepted, self.at_key, self.valid = to.text, to.text, True

    @rule(text=VALID)
    def written_by_redis_cli(self, text: str) -> None:
        """Writes a valid text directly to the key; no replica is notified."""
        self.run(self.client.set(KEY, text))
        self.at_key, self.valid = text, True

    @rule(text=INVALID)
    def spoiled_by_redis_cli(self, text: str) -> None:
        """Writes an invalid text directly to the key."""
        self.run(self.client.set(KEY, text))
        self.at_key, self.valid = text, False

    @rule()
    def deleted_by_redis_cli(self) -> None:
        """Deletes the key, which puts the default policy in force."""
        self.run(self.client.delete(KEY))
        self.at_key, self.valid = DEFAULT_TEXT, True

    @rule(at=st.integers(0, REPLICAS - 1))
    def polls(self, at: int) -> None:
        """Lets one replica poll."""
        self.run(self.replicas[at].poll())
        self.read()

    @rule(at=st.integers(0, REPLICAS - 1))
    def restarts(self, at: int) -> None:
        """Restarts a replica: it knows only what the store holds."""
        self.replicas[at] = self.started(at)
        self.read()

    @rule()
    def all_poll(self) -> None:
        """Lets all replicas poll: all run the newest valid policy under one number, and publish that."""
        for _ in range(2):  # the first poll may record a revision, whose number the others read in the second
            for follower in self.replicas:
                self.run(follower.poll())
            self.read()
        expected = digest_of(self.accepted)
        assert {follower.current().digest for follower in self.replicas} == {expected}
        revisions = Revisions(self.client, KEY)
        head = self.run(revisions.head())
        assert digest_of(head.text) == expected
        snapshot = self.run(revisions.snapshot())
        entries = self.run(Replicas(self.client, KEY).listed(snapshot.now_us))
        assert {(one.number, one.digest, one.refused is None) for one in entries} == {
            (head.number, expected, self.valid)
        }

    @invariant()
    def nothing_else_was_ever_in_force(self) -> None:
        """Checks that every replica runs a policy that was accepted once."""
        for follower in getattr(self, "replicas", ()):
            assert follower.current().digest in self.everything

    def teardown(self) -> None:
        """Closes the client."""
        if hasattr(self, "runner"):
            self.run(self.opened.__aexit__(None, None, None))
            self.runner.close()


def test_replicas_converge_to_the_newest_valid_policy(store_url: str) -> None:
    machine = type("FleetOfThisStore", (Fleet,), {"url": store_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=settings().max_examples * 3 // 5,
            stateful_step_count=25,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )

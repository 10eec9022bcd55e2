"""Whatever operators, redis-cli and restarts do: replicas that look converge to the newest valid policy."""

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
from ratelimitd.rollout.follower import PolicyFollower
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.settings import Settings, load
from ratelimitd.store.client import open_client
from tests.limits import KEY, limits_json
from tests.replicas import replica

SETTINGS: Settings = load({}, {})
REPLICAS = 3
VALID = st.integers(1, 9).map(lambda capacity: limits_json(user_capacity=capacity))
INVALID = st.sampled_from(["{", "[]", limits_json(user_rate=-1), "tiers: {}"])


class Fleet(RuleBasedStateMachine):
    """Replicas that hear of a change when the machine lets them: a lost message is a poll that never comes.

    `accepted` is what must be in force; `standing` is what redis-cli left at the key and nobody saw yet.
    """

    url = ""

    @initialize()
    def begin(self) -> None:
        """An empty store, and replicas that run the defaults."""
        self.runner = asyncio.Runner()
        self.client: Redis = self.run(self._open())
        self.control = Control(self.client, SETTINGS)
        self.replicas = [self.started(at) for at in range(REPLICAS)]
        self.accepted, self.standing = DEFAULT_TEXT, DEFAULT_TEXT
        self.valid = True
        self.everything = {digest_of(DEFAULT_TEXT)}

    def run(self, coroutine: Any) -> Any:
        """The result, on the machine's own loop."""
        return self.runner.run(coroutine)

    async def _open(self) -> Redis:
        self.opened = open_client(self.url)
        client = await self.opened.__aenter__()
        await client.flushall()
        return client

    def started(self, at: int) -> PolicyFollower:
        """A replica that has just started: it has looked once."""
        policies = PolicyFollower(self.client, KEY, replica(f"r{at}"))
        self.run(policies.poll())
        return policies

    def looked(self) -> None:
        """Somebody looked: what is valid there is accepted."""
        if self.valid and self.standing != self.accepted:
            self.accepted = self.standing
        self.everything.add(digest_of(self.accepted))

    @rule(text=VALID)
    def apply(self, text: str) -> None:
        """An operator changes the policy."""
        self.looked()
        self.run(self.control.apply(text, author="alice", note="", expected=None))
        self.accepted, self.standing, self.valid = text, text, True
        self.everything.add(digest_of(text))

    @rule(text=VALID)
    def apply_on_an_old_number(self, text: str) -> None:
        """Somebody who looked before another change gets a conflict, and nothing happens."""
        self.looked()
        number = self.run(self.control.current()).revision.number
        with pytest.raises(ConflictError):
            self.run(self.control.apply(text, author="bob", note="", expected=number + 1))

    @rule(back=st.integers(0, 3))
    def rollback(self, back: int) -> None:
        """To one of the newest revisions."""
        self.looked()
        history = self.run(self.control.history(4))
        if not history:
            return
        to = history[min(back, len(history) - 1)]
        self.run(self.control.rollback(to.number, author="alice", note="", expected=None))
        self.accepted, self.standing, self.valid = to.text, to.text, True

    @rule(text=VALID)
    def written_by_redis_cli(self, text: str) -> None:
        """Past the revisions; nobody is told."""
        self.run(self.client.set(KEY, text))
        self.standing, self.valid = text, True

    @rule(text=INVALID)
    def spoiled_by_redis_cli(self, text: str) -> None:
        """What stands there is no policy."""
        self.run(self.client.set(KEY, text))
        self.standing, self.valid = text, False

    @rule()
    def deleted_by_redis_cli(self) -> None:
        """Which means the defaults."""
        self.run(self.client.delete(KEY))
        self.standing, self.valid = DEFAULT_TEXT, True

    @rule(at=st.integers(0, REPLICAS - 1))
    def hears(self, at: int) -> None:
        """A message or a poll reaches one replica."""
        self.run(self.replicas[at].poll())
        self.looked()

    @rule(at=st.integers(0, REPLICAS - 1))
    def restarts(self, at: int) -> None:
        """It knows nothing but what the store tells."""
        self.replicas[at] = self.started(at)
        self.looked()

    @rule()
    def all_hear(self) -> None:
        """Then all run the newest valid policy, under one number, and tell so."""
        for _ in range(2):  # what the first one records, the others learn the number of
            for follower in self.replicas:
                self.run(follower.poll())
            self.looked()
        expected = digest_of(self.accepted)
        assert {replica.current().digest for replica in self.replicas} == {expected}
        revisions = Revisions(self.client, KEY)
        head = self.run(revisions.head())
        assert digest_of(head.text) == expected
        look = self.run(revisions.snapshot())
        told = self.run(Replicas(self.client, KEY).live(look.now_us))
        assert {(one.number, one.digest, one.refused is None) for one in told} == {
            (head.number, expected, self.valid)
        }

    @invariant()
    def nothing_else_was_ever_in_force(self) -> None:
        """Every replica runs a policy that was accepted once."""
        for follower in getattr(self, "replicas", ()):
            assert follower.current().digest in self.everything

    def teardown(self) -> None:
        """Closes the client."""
        if hasattr(self, "runner"):
            self.run(self.opened.__aexit__(None, None, None))
            self.runner.close()


def test_replicas_converge_to_the_newest_valid_policy(store_url: str) -> None:
    """Over changes, rollbacks, foreign writes, restarts and lost messages in any order."""
    machine = type("FleetOfThisStore", (Fleet,), {"url": store_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )

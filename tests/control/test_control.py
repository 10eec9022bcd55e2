"""The control operations on a real store: changes, conflicts, explanations and resets."""

import asyncio
import os
import socket

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.control.control import Control
from ratelimitd.control.request_spec import RequestSpec, Subject
from ratelimitd.core.model import MICRO, Limit
from ratelimitd.core.tiers import TierName
from ratelimitd.decider import open_decider
from ratelimitd.errors import (
    ConflictError,
    PolicyError,
    RequestSpecError,
    StoreError,
    UnknownRevisionError,
    WaitError,
)
from ratelimitd.limiter.deny_cache import DenyCache
from ratelimitd.policy.text import DEFAULT_TEXT, digest_of
from ratelimitd.policy.validation import validate
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.follower import PolicyFollower
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.rollout.revision import EXTERNAL, Revision
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.rollout.snapshot import PolicySnapshot
from ratelimitd.settings import load
from ratelimitd.store.client import open_client
from tests.core.fakes import check_over
from tests.eventually import eventually
from tests.example_limits import KEY, limits_json
from tests.replicas import replica
from tests.script_limiter import ScriptLimiter

SETTINGS = load({}, {})
FULL = """
tiers:
  global: { capacity: 10, refill_rate: 1 }
  user: { capacity: 5, rate: 60/min }
  user_api: { capacity: 3, refill_rate: 1 }
routes:
  - { path: /api/search, cost: 2 }
  - { path: /api/search, cost: 3 }
overrides:
  users:
    mallory: { blocked: true }
"""


@pytest.fixture
def control(store: Redis) -> Control:
    """Returns the control of an empty store."""
    return Control(store, SETTINGS)


async def applied(control: Control, text: str, expected: Expected | None = None) -> int:
    """Applies a text and returns the number of its revision."""
    return (await control.apply(text, author="alice", note="why", expected=expected)).revision.number


async def test_without_any_change_the_default_policy_is_revision_0(control: Control) -> None:
    current = await control.current()
    assert (current.revision.number, current.revision.text, current.refused) == (0, DEFAULT_TEXT, ())


async def test_a_change_is_a_revision_and_sets_the_key(control: Control, store: Redis) -> None:
    change = await control.apply(FULL, author="alice", note="search costs more", expected=Expected(0))
    assert (change.revision.number, change.revision.author, change.revision.note) == (
        1,
        "alice",
        "search costs more",
    )
    assert [problem.path for problem in change.advice] == ["routes[1]"]
    assert await store.get(KEY) == FULL.encode()
    assert (await control.current()).revision == change.revision


async def test_an_invalid_text_changes_nothing_and_names_every_problem(
    control: Control, store: Redis
) -> None:
    """`validate` names the same problems."""
    bad = limits_json(user_rate=-1, global_capacity=0)
    with pytest.raises(PolicyError) as error:
        await applied(control, bad)
    assert [problem.path for problem in error.value.problems] == ["global_capacity", "user_rate"]
    assert validate(bad).problems == error.value.problems
    assert validate(limits_json()).problems == ()
    assert await store.get(KEY) is None


async def test_of_two_changes_of_the_same_revision_one_is_a_conflict(control: Control) -> None:
    """The error names the author of the other, and nothing of the loser is written."""
    await applied(control, limits_json())
    tries = [applied(control, limits_json(user_capacity=n), expected=Expected(1)) for n in (6, 7)]
    got = await asyncio.gather(*tries, return_exceptions=True)
    (conflict,) = [one for one in got if isinstance(one, ConflictError)]
    assert "revision 2 by alice" in str(conflict)
    assert (await control.current()).revision.number == 2


async def test_without_an_expected_number_every_change_is_accepted(control: Control) -> None:
    await asyncio.gather(*(applied(control, limits_json(user_capacity=n)) for n in (6, 7)))
    assert [one.number for one in await control.history()] == [2, 1]


async def test_a_direct_write_is_recorded_before_any_other_operation(control: Control, store: Redis) -> None:
    """It can be rolled back to, and a change that expects the number before it is a conflict."""
    await applied(control, limits_json())
    await store.set(KEY, limits_json(user_capacity=9))
    with pytest.raises(ConflictError, match="revision 2 by external"):
        await applied(control, limits_json(user_capacity=8), expected=Expected(1))
    assert (await control.history())[0].author == EXTERNAL
    back = await control.rollback(1, author="bob", note="", expected=Expected(2))
    assert (back.number, back.author, back.note, back.text) == (3, "bob", "rollback to 1", limits_json())


async def test_a_direct_write_over_an_unrecorded_one_is_a_conflict(control: Control, store: Redis) -> None:
    """Both have the same provisional number, so the number alone is a conflict as well."""
    await store.set(KEY, limits_json())
    seen = Expected.of((await control.current()).revision)
    for number, expected in ((1, seen), (2, Expected(2))):
        await store.set(KEY, limits_json(user_capacity=20 + number))
        with pytest.raises(ConflictError, match=f"revision {number} .*digest|had not been recorded"):
            await applied(control, limits_json(user_capacity=8), expected=expected)
        assert (await control.current()).revision.text == limits_json(user_capacity=20 + number)
    assert await applied(control, limits_json(user_capacity=8), expected=Expected(2)) == 3


async def test_the_digest_identifies_a_direct_write_before_it_is_recorded(
    control: Control, store: Redis
) -> None:
    await store.set(KEY, limits_json())
    seen = Expected.of((await control.current()).revision)
    assert await applied(control, limits_json(user_capacity=8), expected=seen) == 2


@pytest.mark.parametrize("text", ["", "-1", "1-", "1-abc", "1-57BF0E9AC12D", "1.0", "\u0661", "1" * 16])
def test_what_names_no_revision_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be the number of a revision, or NUMBER-DIGEST, got"):
        Expected.parse(text)


async def test_a_change_beside_endless_direct_writes_is_a_conflict(
    control: Control, store: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt = Revisions.adopt
    writes = 0

    async def overtaken(self: Revisions, snapshot: PolicySnapshot) -> Revision:
        nonlocal writes
        writes += 1
        await store.set(KEY, limits_json(user_capacity=10 + writes))
        return await adopt(self, snapshot)

    await store.set(KEY, limits_json())
    monkeypatch.setattr(Revisions, "adopt", overtaken)
    with pytest.raises(ConflictError, match=f"{KEY} is being written directly again and again"):
        await applied(control, limits_json())
    assert writes == 3
    assert await store.keys("*") == [KEY.encode()]


async def test_policy_keys_of_another_type_are_named(control: Control, store: Redis) -> None:
    """A replica keeps its policy meanwhile."""
    policies = PolicyFollower(store, KEY, replica())
    number = await applied(control, limits_json())
    await policies.poll()
    hash_key, shadow_key = f"{{{KEY}}}:replicas", f"{{{KEY}}}:shadow:{number}"
    for key in (hash_key, shadow_key):
        await store.set(key, "no hash")
    status = await control.status()
    assert (status.replicas, status.shadow, status.revision.number) == ([], {}, number)
    for key, warning in zip((hash_key, shadow_key), status.warnings, strict=True):
        assert f"WRONGTYPE: the key {key} must be a hash, but holds another type; delete it" in warning
    revisions = f"{{{KEY}}}:revisions"
    await store.set(revisions, "no hash")
    for operation in (control.status(), control.current(), control.history(), control.revision(1)):
        with pytest.raises(StoreError, match=r"WRONGTYPE: the key .*:revisions must be a hash"):
            await operation
    await store.set(KEY, limits_json(user_capacity=9))
    with pytest.raises(StoreError, match=r"WRONGTYPE: the key .*:revisions must be a hash"):
        await applied(control, limits_json())
    with capture_logs() as lines:
        await policies.poll()
    assert policies.current().digest == digest_of(limits_json())
    assert "WRONGTYPE: the key" in lines[0]["reason"]
    await store.delete(KEY, revisions)
    await store.rpush(KEY, "a list")
    assert "must be a string" in str((await control.current()).refused[0])


async def test_a_refused_text_is_reported_and_can_be_replaced(control: Control, store: Redis) -> None:
    """The newest good revision stays current meanwhile."""
    await applied(control, limits_json())
    await store.set(KEY, limits_json(user_rate=-1))
    current = await control.current()
    assert current.revision.number == 1
    assert [str(problem) for problem in current.refused] == ["user_rate: must be 0.000001 or more, got -1"]
    assert (await control.status()).refused == current.refused
    assert await applied(control, limits_json(), expected=Expected(1)) == 2
    assert (await control.current()).refused == ()


async def test_a_rollback_to_an_unknown_revision_is_an_error(control: Control) -> None:
    with pytest.raises(UnknownRevisionError, match="revision 7 does not exist"):
        await control.rollback(7, author="bob", note="", expected=None)


async def test_a_diff_compares_meaning_and_not_spelling(control: Control) -> None:
    await applied(control, limits_json())
    same = FULL.partition("routes:")[0]
    assert await control.diff(same) == ""
    changed = (await control.diff(limits_json(user_capacity=6))).splitlines()
    assert [line for line in changed if line[:1] in "+-"][2:] == [
        "-  user: {capacity: 5, refill_rate: 1}",
        "+  user: {capacity: 6, refill_rate: 1}",
    ]
    await applied(control, FULL)
    assert await control.diff(limits_json(), against=1) == ""


async def test_wait_returns_when_every_live_replica_runs_the_revision(control: Control, store: Redis) -> None:
    """Until then the error names the replicas that are behind."""
    policies = [PolicyFollower(store, KEY, replica(name)) for name in ("r1", "r2")]
    for one in policies:
        await one.poll()
    number = await applied(control, limits_json())
    await policies[0].poll()
    with pytest.raises(WaitError, match=f"revision {number} does not run yet on r2"):
        await control.wait(number, timeout_s=0)
    waiting = asyncio.create_task(control.wait(number, timeout_s=20))
    await policies[1].poll()
    status = await waiting
    assert {one.number for one in status.replicas} == {number}


async def test_wait_names_a_silent_replica_and_the_status_lists_it(control: Control, store: Redis) -> None:
    running = PolicyFollower(store, KEY, replica("r1"))
    await running.poll()
    seconds, _ = await store.time()
    silent = replica("frozen", seen_us=(seconds - 20) * MICRO)
    await store.hset(f"{{{KEY}}}:replicas", "frozen", silent.model_dump_json(by_alias=True))
    number = await applied(control, limits_json())
    await running.poll()
    with pytest.raises(WaitError, match=rf"revision {number} does not run yet on frozen \(not seen for 2"):
        await control.wait(number, timeout_s=0)
    listed = (await control.status()).replicas
    assert [(one.id, one.silent, one.behind) for one in listed] == [
        ("frozen", True, True),
        ("r1", False, False),
    ]


async def test_wait_ends_when_the_store_stops_answering(
    store: Redis, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says that the change is accepted."""
    monkeypatch.setattr("ratelimitd.control.replica_wait.LAST_READ_S", 0.1)
    async with open_client(store_url) as client:
        control = Control(client, SETTINGS)
        number = await applied(control, limits_json())
        await store.client_pause(2000)
        try:
            with pytest.raises(StoreError, match=f"revision {number} is accepted; whether .* is unknown"):
                await control.wait(number, timeout_s=0)
        finally:
            await store.client_unpause()


async def test_two_services_in_one_process_are_two_replicas(control: Control, store_url: str) -> None:
    """Containers may share host name and process id."""
    settings = load({"RATELIMITD_REDIS_URL": store_url}, {})
    async with open_decider(settings), open_decider(settings):
        ids = [one.id for one in (await control.status()).replicas]
    assert len(ids) == 2
    assert all(one.startswith(f"{socket.gethostname()}:{os.getpid()}:") for one in ids)


async def test_the_status_has_the_shadow_counts_of_the_revision_in_force(
    control: Control, store: Redis
) -> None:
    number = await applied(control, limits_json())
    await Replicas(store, KEY).add_shadow(number, {"tiers.user": 3})
    assert (await control.status()).shadow == {"tiers.user": 3}
    await applied(control, limits_json(user_capacity=9))
    assert (await control.status()).shadow == {}


async def test_an_explanation_is_the_real_decision_and_spends_nothing(control: Control, store: Redis) -> None:
    await applied(control, limits_json(user_rate=0.001, user_api_rate=0.001))
    policies = PolicyFollower(store, KEY, replica())
    await policies.poll()
    check = check_over(ScriptLimiter(store), policy=policies.current())
    spec = RequestSpec(path="/api/ping?q=1", user="user1", context={"api": "/api/*"})
    for _ in range(3):
        assert (await control.explain(spec)).outcome == "allowed"
        await check(spec.request(SETTINGS))
    denied = await control.explain(spec)
    assert (denied.outcome, denied.denied_by, denied.more) == ("denied", TierName.USER_API, 0)
    assert [state.key for state in denied.tiers] == [
        "rate:global",
        "rate:user:user1",
        "rate:user:user1:api:/api/*",
    ]
    assert (denied.tiers[1].tokens - 2 * MICRO) < MICRO / 10
    assert denied.retry_after_us is not None


async def test_routes_overrides_and_identities_are_explained(control: Control) -> None:
    await applied(control, FULL)
    search = await control.explain(RequestSpec(path="/api/search/", user="alice"))
    assert (search.route, search.cost, search.identity.key) == ("routes[0]", 2 * MICRO, "alice")
    assert (await control.explain(RequestSpec(path="/", user="mallory"))).outcome == "blocked"
    by_address = await control.explain(RequestSpec(path="/", address="203.0.113.9"))
    assert by_address.identity.key == "ip=203.0.113.9"
    by_header = await control.explain(RequestSpec(path="/", headers={"X-User-Id": "carol"}))
    assert by_header.identity.key == "carol"


def test_headers_whose_names_differ_in_case_are_one_header() -> None:
    spec = RequestSpec(path="/", headers={"X-A": "1", "x-a": "2", "X-B": "3", "X-a": "4"})
    assert spec.request(SETTINGS).headers == {"x-a": "1,2,4", "x-b": "3"}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (RequestSpec(path="api"), "the path must begin with /, got 'api'"),
        (RequestSpec(path="/", address="nowhere"), "'nowhere' is not an IP address"),
        (RequestSpec(path="/", headers={"a b": "c"}), "'a b' is not a header name"),
    ],
)
async def test_an_invalid_request_spec_is_an_error(control: Control, spec: RequestSpec, reason: str) -> None:
    with pytest.raises(RequestSpecError, match=reason):
        await control.explain(spec)


async def test_a_user_is_an_error_where_only_addresses_identify(store: Redis) -> None:
    control = Control(store, load({"RATELIMITD_IDENTITY": "address"}, {}))
    with pytest.raises(
        RequestSpecError, match=r"users cannot be given: the setting identity \(address\) has no header"
    ):
        await control.explain(RequestSpec(path="/", user="alice"))


@pytest.mark.parametrize(
    "subject", [Subject(), Subject(user="a", address="203.0.113.9"), Subject(user="a,b"), Subject(user=" ")]
)
async def test_a_subject_is_exactly_one_valid_user_or_address(control: Control, subject: Subject) -> None:
    with pytest.raises(RequestSpecError):
        await control.buckets(subject)


async def test_the_buckets_of_a_subject_are_refilled_to_now(control: Control, store: Redis) -> None:
    """A tier that is off has no limit: its tokens are the ones counted last."""
    await applied(control, limits_json(user_rate=0.001))
    policies = PolicyFollower(store, KEY, replica())
    await policies.poll()
    check = check_over(ScriptLimiter(store), policy=policies.current())
    await check(RequestSpec(path="/", user="al", context={"api": "/api/*"}).request(SETTINGS))
    user, api = await control.buckets(Subject(user="al"))
    assert (user.key, user.tier, user.api, user.limit) == (
        "rate:user:al",
        TierName.USER,
        None,
        Limit(5, 0.001),
    )
    assert 4 * MICRO <= user.tokens < 4.1 * MICRO
    assert (api.tier, api.api, api.shadow) == (TierName.USER_API, "/api/*", False)
    assert await control.buckets(Subject(user="alice")) == []
    await applied(control, "tiers: {global: {capacity: 1, rate: 1/s}, user: off, user_api: off}")
    assert [state.limit for state in await control.buckets(Subject(user="al"))] == [None, None]


async def test_a_reset_drops_the_cached_denials_of_every_replica(control: Control, store: Redis) -> None:
    await applied(control, limits_json(user_rate=0.001, user_api_rate=0.001))
    cache = DenyCache(ScriptLimiter(store), now_us=lambda: 0)
    async with PolicyFollower(store, KEY, replica(), on_reset=cache.clear).following() as policies:
        check = check_over(cache, policy=policies.current())
        request = RequestSpec(path="/", user="al").request(SETTINGS)
        answers = [(await check(request)).template.http_status for _ in range(5)]
        assert answers == [200, 200, 200, 429, 429]

        async def listens() -> bool:
            return bool((await store.pubsub_numsub(Revisions(store, KEY).channel))[0][1])

        async def allowed() -> bool:
            return (await check(request)).template.http_status == 200

        await eventually(listens, "a subscription")
        assert await control.reset(Subject(user="al")) == ["rate:user:al", "rate:user:al:api:*"]
        await eventually(allowed, "a request that is allowed again")


async def test_the_digest_of_a_revision_is_that_of_its_text(control: Control) -> None:
    await applied(control, limits_json())
    revision = await control.revision(1)
    assert revision.digest == digest_of(limits_json())
    assert revision.sha256.startswith(revision.digest)


async def test_a_lost_record_of_the_newest_revision_blocks_no_operation(
    control: Control, store: Redis
) -> None:
    """Its text is still at the config key."""
    await applied(control, limits_json())
    await applied(control, FULL)
    await store.hdel(f"{{{KEY}}}:revisions", "2")
    shown = (await control.current()).revision
    assert (shown.number, shown.text, shown.author, shown.at_us) == (2, FULL, "", 0)
    assert shown.note == "its record is lost"
    assert (await control.explain(RequestSpec("/api/search"))).cost == 2 * MICRO
    assert (await control.status()).revision == shown
    assert await applied(control, limits_json()) == 3


async def test_a_lost_record_beside_a_refused_text_shows_the_policy_in_force(
    control: Control, store: Redis
) -> None:
    """It is the revision before the lost one, and a new policy can be applied."""
    await applied(control, FULL)
    await applied(control, limits_json())
    await store.hdel(f"{{{KEY}}}:revisions", "2")
    await store.set(KEY, "{")
    current = await control.current()
    assert (current.revision.number, current.revision.text) == (1, FULL)
    assert current.refused
    assert await applied(control, limits_json()) == 3

"""Tests of decisions with the outage answer `local`, and of what observers and clients see of them."""

import itertools

import pytest

from ratelimitd.core.decide import Decider
from ratelimitd.core.decision import Decision
from ratelimitd.core.identity import parse_sources
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.model import OnStoreError, Outcome, Request, TakeRequest, Verdict
from ratelimitd.core.policy import PolicySet, TierRule
from ratelimitd.core.response import Renderer
from ratelimitd.core.tiers import TierName
from ratelimitd.errors import StoreError
from ratelimitd.limiter.replica_share import ReplicaShare
from ratelimitd.telemetry.decision_counts import DecisionCounts, Series
from ratelimitd.telemetry.traces.attributes import decision_attributes
from tests.core.fakes import FLAT_POLICY, BrokenLimiter, OracleLimiter, decider_over
from tests.core.response_fields import headers_of, metadata_of

ALICE = Request("GET", "/api/ping", "host", {"x-user-id": "alice"}, "203.0.113.9", {"api": "/api/*"})
DRY_RUN = ALICE._replace(context={"ratelimitd.dry_run": "true", "api": "/api/*"})
LOCAL = OnStoreError.LOCAL


def two_replicas(now_us: int = 0) -> ReplicaShare:
    """Returns the share of one of two replicas: 5, 3 and 2 tokens, half a token per second each."""
    return ReplicaShare(lambda: 2, now_us=lambda: now_us)


def with_answers(*answers: OnStoreError | None) -> PolicySet:
    """Returns the flat policy with these answers of its tiers."""
    tiers = zip(FLAT_POLICY.tiers.items(), answers, strict=True)
    return PolicySet(
        "flat", {name: TierRule(rule.limit, on_store_error=answer) for (name, rule), answer in tiers}
    )


async def decided(decide: Decider, times: int) -> list[Decision]:
    return [await decide(ALICE) for _ in range(times)]


async def test_a_replica_allows_its_share_and_then_denies() -> None:
    decide = decider_over(BrokenLimiter(), LOCAL, local=two_replicas())
    found = await decided(decide, 4)
    assert [decision.verdict for decision in found] == [Verdict.ALLOWED] * 2 + [Verdict.DENIED] * 2
    assert {decision.source for decision in found} == {"degraded"}


async def test_a_dry_run_takes_nothing_from_the_share() -> None:
    decide = decider_over(BrokenLimiter(), LOCAL, local=two_replicas())
    for _ in range(5):
        assert (await decide(DRY_RUN)).verdict is Verdict.ALLOWED
    assert [one.verdict for one in await decided(decide, 3)] == [Verdict.ALLOWED] * 2 + [Verdict.DENIED]


async def test_clients_see_the_share_and_the_access_log_that_it_is_one() -> None:
    decide, render = decider_over(BrokenLimiter(), LOCAL, local=two_replicas()), Renderer()
    allowed, _, denied = [render(decision) for decision in await decided(decide, 3)]
    common = {"identity": "header", "policy": "flat", "tier": "user_api", "degraded": "true"}
    assert metadata_of(allowed) == common | {"outcome": "allowed", "remaining": 1}
    assert metadata_of(denied) == common | {"outcome": "denied", "remaining": 0}
    assert '"user_api";q=2;' in headers_of(allowed)["ratelimit-policy"]
    assert headers_of(denied)["retry-after"] == "2"
    assert denied.template.http_status == 429


async def test_decisions_of_the_store_are_not_marked() -> None:
    decide, render = decider_over(OracleLimiter(), LOCAL, local=two_replicas()), Renderer()
    found = await decided(decide, 4)
    assert {decision.source for decision in found} == {"store"}
    assert all("degraded" not in metadata_of(render(decision)) for decision in found)


async def test_metrics_and_traces_name_the_source() -> None:
    counts = DecisionCounts()
    decide = decider_over(BrokenLimiter(), LOCAL, observers=[counts], local=two_replicas())
    *_, denied = await decided(decide, 5)
    assert dict(counts.totals()) == {
        Series(Verdict.ALLOWED, "", "/api/*", "degraded"): 2,
        Series(Verdict.DENIED, TierName.USER_API, "/api/*", "degraded"): 3,
    }
    assert decision_attributes(denied, None)["ratelimitd.source"] == "degraded"


@pytest.mark.parametrize(
    "order",
    list(itertools.combinations([OnStoreError.DENY, OnStoreError.ENVOY, LOCAL, OnStoreError.ALLOW], 2)),
    ids="-".join,
)
async def test_the_stricter_of_two_answers_applies(order: tuple[OnStoreError, OnStoreError]) -> None:
    stricter, milder = order
    for answers in ((stricter, milder, milder), (milder, None, stricter)):
        decide = decider_over(BrokenLimiter(), milder, with_answers(*answers), local=two_replicas())
        decision = await decide(ALICE)
        if stricter is LOCAL:
            assert (decision.verdict, decision.on_store_error) == (Verdict.ALLOWED, None)
        else:
            assert (decision.verdict, decision.on_store_error) == (Verdict.UNDECIDED, stricter)


class NoPolicies:
    """Has read no policy yet."""

    def current(self) -> PolicySet:
        raise StoreError("no policy could be read from the store yet")


async def test_before_the_first_policy_local_is_deny() -> None:
    decide = Decider(
        policies=NoPolicies(),
        limiter=BrokenLimiter(),
        sources=parse_sources("header:x-user-id", None),
        layout=KeyLayout("rate"),
        on_store_error=LOCAL,
        local=two_replicas(),
    )
    decision = await decide(ALICE)
    assert (decision.verdict, decision.on_store_error) == (Verdict.UNDECIDED, OnStoreError.DENY)


class SwitchedLimiter(OracleLimiter):
    """Decides in memory, or fails while it is off."""

    off = False

    async def take(self, request: TakeRequest) -> Outcome:
        if self.off:
            raise StoreError("away")
        return await super().take(request)


async def test_nothing_is_carried_from_one_side_to_the_other() -> None:
    """The store's bucket keeps what it held, and the share stays as the last outage left it."""
    store = SwitchedLimiter()
    decide = decider_over(store, LOCAL, local=two_replicas())

    async def allowed(times: int, *, off: bool) -> int:
        store.off = off
        return [one.verdict for one in await decided(decide, times)].count(Verdict.ALLOWED)

    assert await allowed(1, off=False) == 1
    assert await allowed(1, off=True) == 1
    assert await allowed(9, off=False) == 2
    assert await allowed(9, off=True) == 1
    assert await allowed(9, off=False) == 0

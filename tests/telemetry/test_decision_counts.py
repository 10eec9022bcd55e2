from ratelimitd.core.model import Outcome, Request, Verdict
from ratelimitd.core.ports import Limiter
from ratelimitd.core.tiers import TierName
from ratelimitd.telemetry.decision_counts import MAX_APIS, OTHER_API, DecisionCounts, Series
from tests.core.fakes import BrokenLimiter, FixedLimiter, OracleLimiter, decider_over


def request(api: str = "", **context: str) -> Request:
    named = {"api": api} if api else {}
    return Request("GET", "/", "host", {"x-user-id": "u1"}, "203.0.113.9", named | context)


async def counted(limiter: Limiter, *requests: Request) -> dict[Series, int]:
    counts = DecisionCounts()
    decide = decider_over(limiter, observers=[counts])
    for one in requests:
        await decide(one)
    return dict(counts.totals())


async def test_each_outcome_is_one_series() -> None:
    assert await counted(OracleLimiter(), *[request("/a")] * 5, request("/b")) == {
        Series(Verdict.ALLOWED, "", "/a", "store"): 3,
        Series(Verdict.DENIED, TierName.USER_API, "/a", "store"): 2,
        Series(Verdict.ALLOWED, "", "/b", "store"): 1,
    }


async def test_undecided_requests_and_local_denials_have_their_source() -> None:
    assert await counted(BrokenLimiter(), request("/a")) == {Series(Verdict.UNDECIDED, "", "/a", "store"): 1}
    local = Outcome(allowed=False, tokens=(0, None, None), local=True)
    assert await counted(FixedLimiter(local), request("/a")) == {
        Series(Verdict.DENIED, TierName.GLOBAL, "/a", "local"): 1
    }


async def test_a_dry_run_is_not_counted() -> None:
    assert await counted(OracleLimiter(), request("/a", **{"ratelimitd.dry_run": "true"})) == {}


async def test_the_names_of_apis_are_bounded() -> None:
    unlimited = FixedLimiter(Outcome(allowed=True, tokens=(1, 1, 1)))
    totals = await counted(unlimited, *[request(f"/{n}") for n in range(MAX_APIS + 7)])
    assert len(totals) == MAX_APIS + 1
    assert totals[Series(Verdict.ALLOWED, "", OTHER_API, "store")] == 7


async def test_counts_continue_after_they_were_read() -> None:
    counts = DecisionCounts()
    decide = decider_over(OracleLimiter(), observers=[counts])
    await decide(request("/a"))
    assert sum(counts.totals().values()) == 1
    await decide(request("/a"))
    assert sum(counts.totals().values()) == 2

import gc
import threading
from collections.abc import Iterator

import pytest

from ratelimitd.core.decision import Decision
from ratelimitd.core.match import MatchedRules
from ratelimitd.core.model import MICRO, Charge, Identity, Limit, Outcome, Request, Verdict
from ratelimitd.core.policy import Override, PolicySet
from ratelimitd.core.ports import Limiter
from ratelimitd.core.tiers import TierName
from ratelimitd.telemetry.decision_counts import MAX_APIS, MAX_RULES, OTHER_API, DecisionCounts, Series
from ratelimitd.telemetry.label_names import MAX_LENGTH
from tests.core.fakes import FLAT_POLICY, BrokenLimiter, FixedLimiter, OracleLimiter, decider_over


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


EXEMPT = PolicySet("", {}, by_identity={"u1": Override("overrides.users.u1", exempt=True)})


@pytest.mark.parametrize("policy", [FLAT_POLICY, EXEMPT])
@pytest.mark.parametrize("limiter", [OracleLimiter(), BrokenLimiter()])
async def test_a_dry_run_is_not_counted(policy: PolicySet, limiter: Limiter) -> None:
    counts = DecisionCounts()
    await decider_over(limiter, policy=policy, observers=[counts])(
        request("/a", **{"ratelimitd.dry_run": "true"})
    )
    assert counts.totals() == {}


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


async def test_names_beyond_the_maximum_keep_their_series() -> None:
    """A count that moved from `other` to a series of its own would make a counter decrease."""
    unlimited = FixedLimiter(Outcome(allowed=True, tokens=(1, 1, 1)))
    names = [f"/{n}" for n in range(MAX_APIS + 1)]
    totals = await counted(unlimited, *map(request, [*names, *names]))
    assert totals[Series(Verdict.ALLOWED, "", OTHER_API, "store")] == 2
    assert totals[Series(Verdict.ALLOWED, "", "/0", "store")] == 2


async def test_a_hostile_name_is_printable_in_its_series() -> None:
    [series] = await counted(OracleLimiter(), request("/a\n\u202e\udcff" + "x" * 10_000))
    assert series.api.startswith(r"/a\n\u202e\udcff")
    assert len(series.api) == MAX_LENGTH


def decisions(api: str) -> Iterator[Decision]:
    """Yields a decision of each kind, by rules that no other decision shares."""
    limits = ((TierName.GLOBAL, Limit(5, 1.0)), (TierName.USER, Limit(5, 1.0)))
    rules = MatchedRules(None, None, api=api, charge=Charge(MICRO, (Limit(5, 1.0),) * 2), limits=limits)
    denied, local = (
        Outcome(allowed=False, tokens=(0, MICRO)),
        Outcome(allowed=False, tokens=(None, 5), local=True),
    )
    for verdict, outcome in (
        (Verdict.ALLOWED, Outcome(allowed=True, tokens=(7, 7))),
        (Verdict.DENIED, denied),
        (Verdict.DENIED, local),
        (Verdict.UNDECIDED, None),
        (Verdict.BLOCKED, None),
    ):
        yield Decision(verdict, request(), Identity("header", "u"), "digest", rules, outcome)


def test_totals_are_exact_while_other_threads_read_and_tables_are_emptied() -> None:
    counts = DecisionCounts()
    done = threading.Event()
    sums: list[int] = []

    def read() -> None:
        while not done.is_set():
            sums.append(sum(counts.totals().values()))

    reader = threading.Thread(target=read)
    reader.start()
    made = 0
    for number in range(MAX_RULES + 100):
        for decision in decisions(f"/{number % 300}"):
            counts.decided(decision)
            made += 1
    done.set()
    reader.join()
    assert sums == sorted(sums)
    assert sum(counts.totals().values()) == made
    assert sum(counts.seconds.counts) == made
    assert len(counts.totals()) == 5 * (MAX_APIS + 1)


def test_no_table_grows_with_the_rules_of_new_policies() -> None:
    """Matched rules have no weak references, so this counts the ones that the garbage collector knows."""
    counts = DecisionCounts()
    for _ in range(3 * MAX_RULES):
        for decision in decisions("/a"):
            counts.decided(decision)
    del decision
    alive = sum(isinstance(one, MatchedRules) for one in gc.get_objects())
    assert alive <= 2 * MAX_RULES

"""Counts decisions: plain integers while they are made, and named series when somebody reads them.

Matched rules equal only themselves, so a count per matched rules costs one dictionary lookup. Reading folds
these counts into totals by name, of which there is a bounded number, and forgets the rules.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

from ratelimitd.core.decision import Decision
from ratelimitd.core.denial import denying_tier
from ratelimitd.core.match import MatchedRules
from ratelimitd.core.model import Outcome, Verdict
from ratelimitd.core.ports import Observer
from ratelimitd.core.tiers import TierName

MAX_APIS = 200
"""Names of APIs with series of their own, for the life of the process. All others count as OTHER_API."""

OTHER_API = "other"

MAX_RULES = 4096
"""Matched rules that are counted before they are folded into the totals, so that old policies are freed."""

MAX_DENIALS = 8192
"""Denials whose tier is kept; the least recently used are dropped first."""

_ALLOWED, _DENIED = Verdict.ALLOWED, Verdict.DENIED  # reading the enum takes 0.16 us on Python 3.11


class Series(NamedTuple):
    """The labels of a count.

    Args:
        outcome: the verdict.
        tier: the tier that denied; empty for every other outcome.
        api: the name of the API: at most MAX_APIS of them, the rest is OTHER_API. Empty where no policy
            could be read.
        source: `store` when the store was asked, `local` when the replica decided alone.
    """

    outcome: Verdict
    tier: TierName | Literal[""]
    api: str
    source: Literal["store", "local"]


class DecisionCounts:
    """Counts every decision except dry runs."""

    def __init__(self) -> None:
        self._allowed: defaultdict[MatchedRules, int] = defaultdict(int)
        self._denied: defaultdict[tuple[MatchedRules, TierName, bool], int] = defaultdict(int)
        self._others: defaultdict[tuple[MatchedRules | None, Verdict], int] = defaultdict(int)
        self._totals: Counter[Series] = Counter()
        self._apis: set[str] = set()
        self._tier = lru_cache(MAX_DENIALS)(_tier)

    def decided(self, decision: Decision) -> None:
        """Counts a decision."""
        verdict, _, _, _, rules, outcome, _, _, dry_run, _ = decision
        if dry_run:
            return
        if outcome is None or rules is None:
            self._others[rules, verdict] += 1
        elif verdict is _ALLOWED:
            self._allowed[rules] += 1
            if len(self._allowed) > MAX_RULES:
                self._fold()
        else:
            self._denied[rules, self._tier(rules, outcome), outcome.local] += 1

    def totals(self) -> Mapping[Series, int]:
        """Returns the counts since the start of the process. The mapping changes with later calls."""
        self._fold()
        return self._totals

    def _fold(self) -> None:
        allowed, self._allowed = self._allowed, defaultdict(int)
        denied, self._denied = self._denied, defaultdict(int)
        others, self._others = self._others, defaultdict(int)
        for rules, count in allowed.items():
            self._totals[Series(_ALLOWED, "", self._api(rules), "store")] += count
        for (rules, tier, local), count in denied.items():
            source: Literal["store", "local"] = "local" if local else "store"
            self._totals[Series(_DENIED, tier, self._api(rules), source)] += count
        for (maybe_rules, verdict), count in others.items():
            source = "store" if verdict is Verdict.UNDECIDED else "local"
            self._totals[Series(verdict, "", self._api(maybe_rules), source)] += count

    def _api(self, rules: MatchedRules | None) -> str:
        if rules is None:
            return ""
        if rules.api not in self._apis:
            if len(self._apis) >= MAX_APIS:
                return OTHER_API
            self._apis.add(rules.api)
        return rules.api


def _tier(rules: MatchedRules, outcome: Outcome) -> TierName:
    tier, _ = denying_tier(rules.limits, rules.charge.cost, outcome.tokens)
    return tier


_port: type[Observer] = DecisionCounts

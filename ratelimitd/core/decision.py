"""The decision about one request, as a value: `core/decide.py` makes it, observers see it."""

from typing import Literal, NamedTuple

from ratelimitd.core.match import MatchedRules
from ratelimitd.core.model import Identity, OnStoreError, Outcome, Request, Verdict

Source = Literal["store", "local", "degraded"]
"""What makes a decision: the store; the replica alone, because it knows the outcome or no bucket takes part;
or the replica from its share of the limits, because the store cannot decide."""


class Decision(NamedTuple):
    """What was decided about a request, and why.

    Args:
        verdict: the decision.
        request: the request.
        identity: the user or address that is charged.
        policy_digest: the digest of the policy in force; empty when none could be read.
        rules: the rules that matched; None when no policy could be read.
        outcome: the limiter's outcome; None where no bucket takes part, and where the store
            gave no answer.
        shadow: the path of the part of the policy that would have denied were it not in shadow, or None.
        on_store_error: the reply to an undecided request, None for any other.
        dry_run: nothing was taken.
        started_ns: when the decision began, in nanoseconds of the decider's clock.
    """

    verdict: Verdict
    request: Request
    identity: Identity
    policy_digest: str
    rules: MatchedRules | None
    outcome: Outcome | None = None
    shadow: str | None = None
    on_store_error: OnStoreError | None = None
    dry_run: bool = False
    started_ns: int = 0

    @property
    def source(self) -> Source:
        """What made the decision."""
        if self.rules is not None and self.rules.degraded:
            return "degraded"
        if self.outcome is None:
            return "store" if self.verdict is Verdict.UNDECIDED else "local"
        return "local" if self.outcome.local else "store"

"""In-memory implementations of the ports in ratelimitd.core.ports."""

from collections.abc import Awaitable, Callable, Sequence

from ratelimitd.core.decide import Decider
from ratelimitd.core.identity import parse_sources
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.model import Limit, OnStoreError, Outcome, Request, TakeRequest
from ratelimitd.core.policy import PolicySet, TierRule
from ratelimitd.core.ports import Limiter, LocalLimiter, Observer
from ratelimitd.core.response import Renderer, Response
from ratelimitd.core.tiers import TierName
from ratelimitd.errors import StoreError
from ratelimitd.limiter.memory_limiter import MemoryLimiter

FLAT_POLICY = PolicySet(
    "flat",
    {
        TierName.GLOBAL: TierRule(Limit(10, 1.0)),
        TierName.USER: TierRule(Limit(5, 1.0)),
        TierName.USER_API: TierRule(Limit(3, 1.0)),
    },
)


class FixedPolicies:
    """Provides one policy that never changes."""

    def __init__(self, policy: PolicySet = FLAT_POLICY) -> None:
        self._policy = policy

    def current(self) -> PolicySet:
        return self._policy


class OracleLimiter(MemoryLimiter):
    """Decides in memory, at the instant `now_us` that the test sets."""

    def __init__(self) -> None:
        super().__init__(lambda: self.now_us)
        self.now_us = 1_800_000_000_000_000


class FixedLimiter:
    """Returns the same outcome for each request."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    async def take(self, _request: TakeRequest) -> Outcome:
        return self._outcome


class BrokenLimiter:
    """Fails each request, as if the store did not answer."""

    async def take(self, _request: TakeRequest) -> Outcome:
        raise StoreError("away")


def decider_over(
    limiter: Limiter,
    on_store_error: OnStoreError = OnStoreError.DENY,
    policy: PolicySet = FLAT_POLICY,
    observers: Sequence[Observer] = (),
    on_observer_error: Callable[[Observer, Exception], None] = lambda _observer, _error: None,
    *,
    local: LocalLimiter | None = None,
    now_ns: Callable[[], int] = lambda: 0,
) -> Decider:
    """Returns a decider that uses this limiter."""
    return Decider(
        policies=FixedPolicies(policy),
        limiter=limiter,
        sources=parse_sources("header:x-user-id,address", None),
        layout=KeyLayout("rate"),
        on_store_error=on_store_error,
        local=local,
        observers=observers,
        on_observer_error=on_observer_error,
        now_ns=now_ns,
    )


def check_over(
    limiter: Limiter,
    on_store_error: OnStoreError = OnStoreError.DENY,
    policy: PolicySet = FLAT_POLICY,
    observers: Sequence[Observer] = (),
) -> Callable[[Request], Awaitable[Response]]:
    """Returns a function that decides a request with this limiter and renders the response."""
    decide, render = decider_over(limiter, on_store_error, policy, observers), Renderer()

    async def check(request: Request) -> Response:
        return render(await decide(request))

    return check

"""The service with buckets in memory instead of the store, to find what the calls to the store cost.

It still follows the policy in the store.
"""

from collections.abc import Callable

from ratelimitd import decider
from ratelimitd.asgi import application
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.ports import Limiter
from ratelimitd.decider import limiter_over
from ratelimitd.limiter.deny_cache import monotonic_us
from ratelimitd.limiter.leased_takes import LeasePool
from ratelimitd.limiter.memory_limiter import MemoryLimiter


def _in_memory(
    layout: KeyLayout, _takes: Limiter, _lender: Limiter, leases: LeasePool
) -> tuple[Limiter, Callable[[], None]]:
    memory = MemoryLimiter(monotonic_us)
    return limiter_over(layout, memory, memory, leases)


__all__ = ["application"]

vars(decider)["limiter_over"] = _in_memory

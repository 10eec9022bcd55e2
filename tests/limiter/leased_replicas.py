"""Simulates replicas that lease tokens of one bucket in a store, with calls that are delayed or lost."""

import asyncio
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from ratelimitd.core.bucket import Bucket, charge_buckets, expiry_ms
from ratelimitd.core.lease import MAX_LEASE_US, lease_terms
from ratelimitd.core.model import MICRO, Charge, Limit, Outcome, TakeRequest
from ratelimitd.errors import StoreError
from ratelimitd.limiter.leased_limiter import LeasedLimiter
from ratelimitd.limiter.leased_takes import LeasePool
from ratelimitd.limiter.split_limiter import SplitLimiter

KEY = "rate:global"
ONE = Fraction(1)


class Clocks:
    """The true time, and the store's clock, which steps.

    Attributes:
        now_us: the true time.
        ahead_us: how far the store's clock is ahead of it.
    """

    def __init__(self) -> None:
        self.now_us = 1_800_000_000_000_000
        self.ahead_us = 0
        self._forward = [(0, 0)]  # from this true time on: microseconds of all steps forward

    @property
    def store_us(self) -> int:
        """The store's clock."""
        return self.now_us + self.ahead_us

    def step(self, step_us: int) -> None:
        """Steps the store's clock, a microsecond after all that has happened."""
        self.now_us += 1
        self.ahead_us += step_us
        self._forward.append((self.now_us, self._forward[-1][1] + max(step_us, 0)))

    def advanced_us(self, at_us: int) -> int:
        """Returns how far the store's clock has moved forward until a true time: buckets refill by that."""
        return at_us + next(
            forward_us for since_us, forward_us in reversed(self._forward) if since_us <= at_us
        )


class Admission(NamedTuple):
    """A request that the leased bucket has paid for: when, by the true time, and its cost."""

    at_us: int
    cost: int


@dataclass(eq=False, slots=True)
class Call:
    """A take on its way to the store, or back with its outcome."""

    request: TakeRequest
    answer: "asyncio.Future[Outcome]"
    outcome: Outcome | None = None
    decided_us: int = 0

    def lose(self) -> None:
        """Fails the call for its replica, whether the store gets it or not."""
        if not self.answer.done():
            self.answer.set_exception(StoreError("lost"))


class World:
    """The store, and the calls on their way to it and back.

    Attributes:
        limits: the limits with which the leased bucket was charged, and when each last was.
    """

    def __init__(self) -> None:
        self.clocks = Clocks()
        self.sent: list[Call] = []
        self.decided: list[Call] = []
        self.admissions: list[Admission] = []
        self.limits: dict[Limit, int] = {}
        self._buckets: dict[str, Bucket] = {}
        self._expires_us: dict[str, int] = {}

    def send(self, request: TakeRequest) -> Call:
        """Sends a call."""
        call = Call(request, asyncio.get_running_loop().create_future())
        self.sent.append(call)
        return call

    def decide(self, call: Call) -> None:
        """Decides a call as the script does, with the expiry that it sets."""
        self.sent.remove(call)
        self.decided.append(call)
        now_us, call.decided_us = self.clocks.store_us, self.clocks.now_us
        for key in [key for key, end_us in self._expires_us.items() if end_us <= now_us]:
            del self._buckets[key], self._expires_us[key]
        call.outcome, changed = charge_buckets(self._buckets, call.request, now_us)
        limits = dict(zip(call.request.keys, call.request.charge.limits, strict=True))
        for key, bucket in changed.items():
            self._buckets[key] = bucket
            self._expires_us[key] = now_us + 1000 * expiry_ms(bucket, limits[key], now_us)
        if KEY in changed:
            self.limits[limits[KEY]] = call.decided_us

    def answer(self, call: Call) -> None:
        """Delivers the outcome of a call, unless its replica waits no longer."""
        self.decided.remove(call)
        if not call.answer.done() and call.outcome is not None:
            call.answer.set_result(call.outcome)

    def broken_law(self, limit: Limit) -> str:
        """Returns by how much a window exceeds the law, and its end; `""` if none does.

        Windows begin after the use of other limits. When the store's clock steps forward, buckets refill, and
        leases from before the step can still be spent.
        """
        terms = lease_terms(limit)
        lease_us = 0
        own = {limit}
        if terms is not None:
            lease_us = int((limit.capacity - terms.limit.capacity) * MICRO / limit.refill_rate)
            own.add(terms.limit)
        others = [at_us for used, at_us in self.limits.items() if used not in own]
        begin_us = max(others) + MAX_LEASE_US if others else 0
        rate, advanced_us = Fraction(limit.refill_rate), self.clocks.advanced_us
        total, most = 0, Fraction(-1 << 99)
        for at_us, cost in sorted(one for one in self.admissions if one.at_us >= begin_us):
            since_us = min(advanced_us(at_us), advanced_us(at_us - lease_us) + lease_us)
            most = max(most, rate * since_us - total)  # of all windows that begin until now
            total += cost
            excess = total + most - rate * advanced_us(at_us) - limit.capacity_micro
            if excess > 0:
                return f"{float(excess)} microtokens too many until {at_us}"
        return ""


class Wire:
    """Sends the takes of a replica. Knows the call of each request that charged the leased bucket."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.charges: dict[object, Call] = {}

    async def take(self, request: TakeRequest) -> Outcome:
        """Returns the outcome of a call. Raises StoreError."""
        call = self._world.send(request)
        if KEY in request.keys:
            self.charges[asyncio.current_task()] = call
        return await call.answer


class Replica:
    """A replica with a clock of its own.

    Args:
        world: the store.
        limit: the limit of the leased bucket.
        split: the leased bucket and others cannot share a call.
        rate: how fast the clock runs.
    """

    def __init__(self, world: World, limit: Limit, *, split: bool, rate: Fraction = ONE) -> None:
        self.limit = limit
        self.pool = LeasePool(lambda: int(world.clocks.now_us * rate))
        self._world = world
        self._wire = Wire(world)
        takes = SplitLimiter(self._wire, self.pool) if split else self._wire
        self._limiter = LeasedLimiter(takes, Wire(world), self.pool)
        self._tasks: set[asyncio.Task[Outcome | None]] = set()

    def begin(
        self, cost: int, user: Limit | None = None, *, dry_run: bool = False
    ) -> "asyncio.Task[Outcome | None]":
        """Starts a request, which is also charged to a bucket of its user, if that has a limit."""
        limits = (self.limit,) if user is None else (self.limit, user)
        keys = (KEY,) if user is None else (KEY, f"rate:user:{user.capacity}")
        request = TakeRequest(_charge(cost, limits), keys, dry_run)
        task = asyncio.create_task(self._take(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _take(self, request: TakeRequest) -> Outcome | None:
        """Returns the outcome and notes the admission. Returns None if the store failed."""
        began_us = self._world.clocks.now_us
        try:
            outcome = await self._limiter.take(request)
        except StoreError:
            return None
        finally:
            charged = self._wire.charges.pop(asyncio.current_task(), None)
        if outcome.allowed and not request.dry_run:
            at_us = began_us if charged is None else charged.decided_us
            self._world.admissions.append(Admission(at_us, request.charge.cost))
        return outcome

    def die(self) -> None:
        """Ends all requests, and forgets the leases."""
        for task in self._tasks:
            task.cancel()
        self.pool.clear()


@lru_cache
def _charge(cost: int, limits: tuple[Limit, ...]) -> Charge:
    return Charge(cost, limits, leased=0)

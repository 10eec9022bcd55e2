"""Builds the parts of the decision and what observes them, and connects them.

The parts are closed in the reverse order of their opening, so the store outlives its users.
"""

import asyncio
import gc
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from ratelimitd import __version__
from ratelimitd.core.decide import Decider
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.ports import Decide, Limiter
from ratelimitd.limiter.deny_cache import DenyCache, monotonic_us
from ratelimitd.limiter.leased_limiter import LeasedLimiter
from ratelimitd.limiter.leased_takes import LeasePool
from ratelimitd.limiter.opening import Parts, open_store_limiter
from ratelimitd.limiter.replica_share import ReplicaShare
from ratelimitd.limiter.split_limiter import SplitLimiter
from ratelimitd.process import descriptors
from ratelimitd.rate_text import per_second
from ratelimitd.rollout.follower import PolicyFollower
from ratelimitd.rollout.replicas import Replica
from ratelimitd.settings import Settings
from ratelimitd.store.access import access_by
from ratelimitd.store.buckets import layout_of
from ratelimitd.store.client import open_client
from ratelimitd.telemetry.decision_counts import DecisionCounts
from ratelimitd.telemetry.denial_log import DenialLog
from ratelimitd.telemetry.observers import ObserverErrorLog
from ratelimitd.telemetry.replica_metrics import Observed, ReplicaMetrics
from ratelimitd.telemetry.store_calls import StoreCalls
from ratelimitd.telemetry.traces.opening import open_traces
from ratelimitd.telemetry.unreadable_addresses import UnreadableAddresses
from ratelimitd.usage.addition import Additions
from ratelimitd.usage.global_bucket import GlobalBucket
from ratelimitd.usage.report import UsageReport
from ratelimitd.usage.sample import Sampler
from ratelimitd.usage.top_publisher import counting_users

GC_THRESHOLD = 50_000
"""Objects created between two runs of the garbage collector: as many as some thousand decisions hold."""


class Deciding(NamedTuple):
    """An open decision.

    Args:
        decide: returns the decision on a request.
        exposition: returns the metrics of this process in the text format of Prometheus. Any thread may
            call it.
        on_refused: counts a request that is refused without a decision, because it came too late.
    """

    decide: Decide
    exposition: Callable[[], bytes]
    on_refused: Callable[[], None]


@asynccontextmanager
async def open_decider(
    settings: Settings, certificate_expires_s: Callable[[], int | None] = lambda: None
) -> AsyncIterator[Deciding]:
    """Opens the decision over the store of the settings, until the end of the block.

    `certificate_expires_s` returns when the certificate of the gRPC server expires, for the metrics.

    The block begins once the store has answered on the decisions' own connection, so no decision waits for a
    connection. It also begins while the store is unreachable; the service connects once that is back. Raises
    SettingsError or MissingExtraError if traces are on and cannot be exported.
    """
    async with AsyncExitStack() as stack:
        replica = _replica(settings)
        traces = await stack.enter_async_context(open_traces(os.environ, replica.id))
        access = access_by(settings)
        client = await stack.enter_async_context(open_client(access, settings.config_key))
        calls = StoreCalls()
        store = await stack.enter_async_context(
            open_store_limiter(Parts(settings, access, traces, calls), client)
        )
        layout = layout_of(client, settings.key_prefix)
        leases = LeasePool(monotonic_us)
        limiter, forget = limiter_over(layout, traces.of_takes(store.limiter), store.limiter, leases)
        unreadable = UnreadableAddresses(settings.address_header)
        policies = PolicyFollower(
            client,
            settings.config_key,
            replica,
            on_change=forget,
            on_reset=forget,
            unreadable_addresses=lambda: unreadable.count,
        )
        await stack.enter_async_context(policies.following())
        counts = DecisionCounts()
        bucket = GlobalBucket(client, policies, layout, lambda: policies.number)
        additions = Additions(settings.config_key, replica.id)
        usage = UsageReport(client, additions, Sampler(counts, calls), bucket)
        await stack.enter_async_context(usage.reporting())
        denials = [stack.enter_context(log) for log in _denial_logs(settings)]
        user_counts = await stack.enter_async_context(
            counting_users(client, settings.config_key, replica.id, settings.top_users)
        )
        await stack.enter_async_context(descriptors.watched())
        await store.settled()
        _reduce_garbage_collection()
        decider = Decider(
            policies=policies,
            limiter=limiter,
            sources=settings.sources(on_unreadable=unreadable),
            layout=layout,
            on_store_error=settings.on_store_error,
            local=ReplicaShare(lambda: policies.live_replicas),
            observers=(policies.shadow_counts, counts, *denials, *user_counts),
            on_observer_error=ObserverErrorLog(),
            now_ns=time.perf_counter_ns,
        )
        metrics = ReplicaMetrics(
            Observed(
                transport=settings.transport,
                store_timeout_s=settings.store_timeout_s,
                decisions=counts,
                calls=calls,
                leases=leases.counts,
                in_flight=store.in_flight,
                policies=policies,
                revision=lambda: policies.number,
                shadow_denied=lambda: policies.shadow_counts.totals,
                live_replicas=lambda: policies.live_replicas,
                global_bucket=bucket.tokens,
                certificate_expires_s=certificate_expires_s,
            )
        )
        decide = traces.of_decisions(decider, policies.revision_of)
        yield Deciding(decide, metrics.exposition, calls.refused)


def limiter_over(
    layout: KeyLayout, takes: Limiter, lender: Limiter, leases: LeasePool
) -> tuple[Limiter, Callable[[], None]]:
    """Returns the limiter of decisions, and a function that drops what it knows of the buckets.

    Args:
        layout: of the keys.
        takes: takes the tokens of requests in the store.
        lender: takes the tokens of leases in the store.
        leases: the leases.
    """
    denials = DenyCache(SplitLimiter(takes, leases) if layout.tagged else takes)

    def forget() -> None:
        denials.clear()
        leases.clear()

    return LeasedLimiter(denials, lender, leases), forget


def _denial_logs(settings: Settings) -> Iterator[DenialLog]:
    if settings.log_denials:
        yield DenialLog(per_second(settings.log_denials), asyncio.get_running_loop())


def _replica(settings: Settings) -> Replica:
    """The description of this process that it publishes, before it runs any policy.

    Containers may share host name and process id, so the id of a replica ends with a random part.
    """
    return Replica(
        id=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}",
        version=__version__,
        transport=settings.transport,
        number=0,
        digest="",
        refused=None,
        started_us=0,
        seen_us=0,
        top_users=settings.top_users,
    )


def _reduce_garbage_collection() -> None:
    """Makes the garbage collector run seldom, and skip what is loaded now.

    Modules stay loaded, and a decision leaves no reference cycles. At the default threshold of 700 objects,
    the collector took a tenth of the CPU of a decision.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)

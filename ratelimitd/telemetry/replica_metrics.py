"""The metrics of a replica. docs/metrics.md describes each; a test compares it with this module.

Decisions only count plain integers, and a scrape turns these into samples. Any thread may scrape: each part
reads an integer, or copies a table, in one step of the interpreter.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ratelimitd import __version__
from ratelimitd.core.model import MICRO
from ratelimitd.core.ports import Policies
from ratelimitd.core.tiers import TierName
from ratelimitd.errors import StoreError
from ratelimitd.telemetry.decision_counts import DecisionCounts
from ratelimitd.telemetry.decisions_text import DecisionsText
from ratelimitd.telemetry.histogram import BOUNDS_NS, Histogram
from ratelimitd.telemetry.lease_counts import LeaseCounts
from ratelimitd.telemetry.store_calls import REASONS, StoreCalls

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

NS = 1_000_000_000
"""Nanoseconds in a second."""

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""The upper bounds of the buckets of batch sizes, inclusive. `max_batch` is at most the last one."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the metrics read, at each scrape.

    Args:
        transport: of this replica.
        store_timeout_s: how long a decision waits for the store, in seconds.
        decisions: all decisions so far.
        calls: the calls to the store so far.
        leases: the leased tokens so far.
        in_flight: returns how many decisions wait for the store.
        policies: the policy in force.
        revision: returns the number of the policy in force.
        shadow_denied: what shadow would have denied, by rule.
        live_replicas: returns the number of live replicas, this one included.
        global_bucket: returns the tokens in the global bucket; None when they are not known.
        certificate_expires_s: returns when the certificate of the gRPC server expires, in seconds since the
            epoch; None without TLS.
    """

    transport: str
    store_timeout_s: float
    decisions: DecisionCounts
    calls: StoreCalls
    leases: LeaseCounts
    in_flight: Callable[[], int]
    policies: Policies
    revision: Callable[[], int]
    shadow_denied: Callable[[], Mapping[str, int]]
    live_replicas: Callable[[], int] = lambda: 1
    global_bucket: Callable[[], float | None] = lambda: None
    certificate_expires_s: Callable[[], int | None] = lambda: None


class ReplicaMetrics(Collector):
    """Collects the metrics of this process; only `exposition` has the counter of decisions."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._decisions = DecisionsText()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def exposition(self) -> bytes:
        """Returns the metrics in the text format of Prometheus. Any thread may call it."""
        return self._decisions.text(self._observed.decisions.totals()) + generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics but the counter of decisions."""
        observed = self._observed
        yield _histogram(
            "decision_seconds", "Time from the decoded request to the decision.", observed.decisions.seconds
        )
        yield from _store_metrics(observed.calls)
        yield from _lease_metrics(observed.leases)
        yield _gauge(
            "store_timeout_seconds", "How long a decision waits for the store.", observed.store_timeout_s
        )
        yield _gauge("in_flight", "Decisions that wait for the store.", observed.in_flight())
        yield _counter(
            "shadow_denied",
            "Requests that a rule in shadow would have denied, by the rule's path in the policy.",
            ["rule"],
            [([rule], count) for rule, count in dict(observed.shadow_denied()).items()],
        )
        yield from _policy_metrics(observed)
        yield _gauge(
            "live_replicas",
            "Live replicas, by which local decisions divide the limits.",
            observed.live_replicas(),
        )
        expires_s = observed.certificate_expires_s()
        if expires_s is not None:
            yield _gauge(
                "tls_certificate_expiry_timestamp_seconds",
                "When the certificate of the gRPC server expires, in seconds since the epoch.",
                expires_s,
            )
        build = GaugeMetricFamily(
            "ratelimitd_build_info",
            "1, with the version of ratelimitd, its transport and the version of Python as labels.",
            labels=["version", "transport", "python"],
        )
        build.add_metric([__version__, observed.transport, platform.python_version()], 1)
        yield build


def _store_metrics(calls: StoreCalls) -> Iterator[Metric]:
    yield _histogram(
        "store_call_seconds", "Time from sending a batch of decisions to its outcomes.", calls.seconds
    )
    sizes = calls.batch_sizes.copy()
    buckets = [
        (str(float(bound)), sum(n for size, n in sizes.items() if size <= bound)) for bound in BATCH_SIZES
    ]
    yield HistogramMetricFamily(
        "ratelimitd_store_batch_size",
        "Decisions in one call to the store.",
        buckets=[*buckets, ("+Inf", sizes.total())],
        sum_value=sum(size * n for size, n in sizes.items()),
    )
    errors = calls.errors.copy()
    yield _counter(
        "store_errors",
        "Decisions that got no outcome from the store, by reason.",
        ["reason"],
        [([reason], errors[reason]) for reason in REASONS],
    )


def _lease_metrics(leases: LeaseCounts) -> Iterator[Metric]:
    # What is spent is read first, so that no scrape shows more of it than was leased.
    spent, leased = leases.spent / MICRO, leases.leased / MICRO
    yield _counter("leased_tokens", "Tokens that this replica took in leases.", [], [([], leased)])
    yield _counter(
        "leased_tokens_spent", "Leased tokens that allowed requests were charged.", [], [([], spent)]
    )


def _policy_metrics(observed: Observed) -> Iterator[Metric]:
    yield _gauge("policy_revision", "Number of the policy in force.", observed.revision())
    try:
        policy = observed.policies.current()
    except StoreError:
        return
    tiers = policy.tiers.items()
    yield _gauge_by_tier(
        "limit_capacity",
        "Capacity of a tier's buckets, in tokens, where no route or override has its own.",
        {tier: rule.limit.capacity for tier, rule in tiers},
    )
    yield _gauge_by_tier(
        "limit_refill_rate",
        "Refill rate of a tier's buckets, in tokens per second, where no route or override has its own.",
        {tier: rule.limit.refill_rate for tier, rule in tiers},
    )
    tokens = observed.global_bucket()
    if tokens is not None:
        yield _gauge("global_tokens", "Tokens in the bucket of the tier global.", tokens)


def _counter(
    name: str, documentation: str, labels: Sequence[str], counts: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    family = CounterMetricFamily(f"ratelimitd_{name}", documentation, labels=labels)
    for values, count in counts:
        family.add_metric(values, count)
    return family


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"ratelimitd_{name}", documentation, value=value)


def _gauge_by_tier(name: str, documentation: str, values: Mapping[TierName, float]) -> Metric:
    family = GaugeMetricFamily(f"ratelimitd_{name}", documentation, labels=["tier"])
    for tier, value in values.items():
        family.add_metric([tier], value)
    return family


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    bounds = [*[str(ns / NS) for ns in BOUNDS_NS], "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(
        f"ratelimitd_{name}", documentation, buckets=buckets, sum_value=histogram.sum_ns / NS
    )

"""Prometheus metrics, read from the store at each scrape. A store outage is a metric, not an error."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ratelimitd.admin.authentication import Authenticator
from ratelimitd.control.answers import Status
from ratelimitd.control.control import Control
from ratelimitd.control.usage_answers import DecisionTotals
from ratelimitd.core.model import Verdict
from ratelimitd.display import printable
from ratelimitd.errors import RatelimitdError, StoreError
from ratelimitd.telemetry.label_names import bounded, without_user_ids

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MAX_NAMES = 100
"""Shadow counters with a series of their own: the largest. The others are summed in one series."""


class Metrics(Collector):
    """Collects the metrics of one admin service."""

    def __init__(self, control: Control, authenticator: Authenticator) -> None:
        self._control = control
        self._authenticator = authenticator
        self._store_up = False
        self._status: Status | None = None
        self._usage: DecisionTotals | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    async def scrape(self) -> bytes:
        """Returns the metrics in the text format of Prometheus."""
        status, usage, store_up = None, None, True
        try:
            usage = await self._control.cumulative_usage()
            status = await self._control.status()
        except StoreError:
            store_up = False
        except RatelimitdError:
            pass  # the store answers, but its policy cannot be read
        # Nothing is awaited from here on, so concurrent scrapes do not mix.
        self._status, self._usage, self._store_up = status, usage, store_up
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics of the last scrape. The registry also calls this once at registration."""
        yield _gauge("store_up", "1 when the store answers, 0 when it does not.", self._store_up)
        yield _counter(
            "admin_refused_keys", "Requests with a wrong admin key.", {(): self._authenticator.refused_keys}
        )
        if self._status is not None:
            yield from _status_metrics(self._status)
        if self._usage is not None:
            yield _usage_metric(self._usage)


def _usage_metric(usage: DecisionTotals) -> Metric:
    counts: dict[tuple[str, ...], int] = {
        (outcome.value, ""): getattr(usage, outcome.value)
        for outcome in Verdict
        if outcome is not Verdict.DENIED
    }
    counts |= {(Verdict.DENIED.value, tier.value): count for tier, count in usage.denied_by.items()}
    return _counter(
        "usage_decisions",
        "Decisions of all replicas, including ended ones, since the store was set up.",
        counts,
        ["outcome", "tier"],
    )


def _status_metrics(status: Status) -> Iterator[Metric]:
    newest = status.revision.number
    numbers = {replica.id: replica.number for replica in status.replicas if not replica.silent}
    behind = sum(number < newest for number in numbers.values())
    yield _gauge("policy_newest_revision", "Number of the newest accepted policy.", newest)
    yield _gauge(
        "policy_refused",
        "1 when the text in the store is not a valid policy and so not in force.",
        bool(status.refused),
    )
    yield _gauge(
        "policy_lost",
        "1 when the store was emptied: replicas keep their policy, and the store does not hold it.",
        bool(status.lost_us),
    )
    yield _gauge("replicas", "Replicas that were seen within the last seconds.", len(numbers))
    yield _gauge(
        "replicas_silent",
        "Replicas that were seen within the last minute, but not within the last seconds.",
        len(status.replicas) - len(numbers),
    )
    yield _gauge("replicas_behind", "Replicas that run an older policy than the newest.", behind)
    revisions = GaugeMetricFamily(
        "ratelimitd_replica_revision", "Number of the policy that a replica runs.", labels=["replica"]
    )
    for replica, number in numbers.items():
        revisions.add_metric([printable(replica)], number)
    yield revisions
    yield _counter(
        "unreadable_addresses",
        "Requests that were charged to the proxy, since their address header was missing or unreadable.",
        {(replica.id,): replica.unreadable_addresses for replica in status.replicas},
        ["replica"],
    )
    yield _counter(
        "policy_shadow_denied",
        "Requests under the newest policy that a limit in shadow would have denied, by its path.",
        {(name,): count for name, count in bounded(without_user_ids(status.shadow), MAX_NAMES).items()},
        ["rule"],
    )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"ratelimitd_{name}", documentation, value=value)


def _counter(
    name: str, documentation: str, counts: Mapping[tuple[str, ...], int], labels: Iterable[str] = ()
) -> Metric:
    family = CounterMetricFamily(f"ratelimitd_{name}", documentation, labels=list(labels))
    for values, count in counts.items():
        family.add_metric([printable(value) for value in values], count)
    return family

"""What monitoring asks, read from the store at the scrape. A store that is away is a value, no error."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ratelimitd.admin.authentication import Guard
from ratelimitd.admin.in_time import in_time
from ratelimitd.control.answers import Status
from ratelimitd.control.control import Control
from ratelimitd.errors import RatelimitdError, StoreError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MAX_NAMES = 100
"""Shadows that have their own series, those that count most; the rest are one."""

OTHER = "other"


class Metrics(Collector):
    """The metrics of one admin service."""

    def __init__(self, control: Control, guard: Guard) -> None:
        self._control = control
        self._guard = guard
        self._store_up = False
        self._status: Status | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    async def scrape(self) -> bytes:
        """All of them, in Prometheus' text format."""
        status, store_up = None, True
        try:
            status = await in_time(self._control.status())
        except StoreError:
            store_up = False
        except RatelimitdError:
            pass  # the store answers, and what it holds of the policy cannot be read
        # Nothing is awaited from here on, so two scrapes at once do not mix.
        self._status, self._store_up = status, store_up
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for. It is asked when this is registered, too."""
        yield _gauge("store_up", "1 when the store answers, 0 when it does not.", self._store_up)
        yield _counter("admin_refused_keys", "Requests with a wrong admin key.", {(): self._guard.refused})
        if self._status is not None:
            yield from _of(self._status)


def _of(status: Status) -> Iterator[Metric]:
    newest = status.revision.number
    numbers = {replica.id: replica.number for replica in status.replicas}
    behind = sum(number < newest for number in numbers.values())
    yield _gauge("policy_revision", "The number of the newest accepted policy.", newest)
    yield _gauge(
        "policy_refused",
        "1 when the text in the store is not in force, because it is no policy.",
        bool(status.refused),
    )
    yield _gauge("replicas", "Replicas that were seen in the last seconds.", len(numbers))
    yield _gauge("replicas_behind", "Replicas that run an older policy than the newest.", behind)
    revisions = GaugeMetricFamily(
        "ratelimitd_replica_revision", "The number of the policy that a replica runs.", labels=["replica"]
    )
    for replica, number in numbers.items():
        revisions.add_metric([replica], number)
    yield revisions
    yield _counter(
        "shadow_denied",
        "Requests under the newest policy that a shadow would have denied, by its name in the policy.",
        {(name,): count for name, count in bounded(without_people(status.shadow)).items()},
        ["name"],
    )


def without_people(counts: Mapping[str, int]) -> dict[str, int]:
    """These counts with all overrides of a kind as one: metrics need no key, and tell nobody's name."""
    told: Counter[str] = Counter()
    for name, count in counts.items():
        told[".".join(name.split(".")[:2])] += count
    return dict(told)


def bounded(counts: Mapping[str, int]) -> dict[str, int]:
    """At most MAX_NAMES of these counts, and the sum of the rest under OTHER."""
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    kept = dict(ordered[:MAX_NAMES])
    if rest := ordered[MAX_NAMES:]:
        kept[OTHER] = kept.get(OTHER, 0) + sum(count for _, count in rest)
    return kept


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"ratelimitd_{name}", documentation, value=value)


def _counter(
    name: str, documentation: str, counts: Mapping[tuple[str, ...], int], labels: Iterable[str] = ()
) -> Metric:
    family = CounterMetricFamily(f"ratelimitd_{name}", documentation, labels=list(labels))
    for values, count in counts.items():
        family.add_metric(list(values), count)
    return family

"""The metrics of a replica: each value, and the text that Prometheus reads."""

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from ratelimitd.core.model import Request
from ratelimitd.telemetry.decision_counts import DecisionCounts
from ratelimitd.telemetry.replica_metrics import Observed, ReplicaMetrics
from ratelimitd.telemetry.store_calls import StoreCalls
from tests.core.fakes import FixedPolicies, OracleLimiter, decider_over

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def observed(
    counts: DecisionCounts,
    calls: StoreCalls | None = None,
    shadow_denied: Mapping[str, int] | None = None,
    global_tokens: float | None = None,
) -> Observed:
    return Observed(
        transport="grpcio",
        decisions=counts,
        calls=calls or StoreCalls(),
        in_flight=lambda: 4,
        policies=FixedPolicies(),
        revision=lambda: 17,
        shadow_denied=lambda: shadow_denied or {},
        global_bucket=lambda: global_tokens,
    )


def parsed(text: bytes) -> Samples:
    """Returns each value by name and labels, as the parser of Prometheus reads them."""
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def by_name(samples: Samples, name: str) -> dict[tuple[str, ...], float]:
    """Returns the values of a metric by the values of its labels, in the order of the labels' names."""
    return {
        tuple(value for _, value in labels): found
        for (one, labels), found in samples.items()
        if one == f"ratelimitd_{name}"
    }


async def test_the_exposition_has_the_counts_of_decisions() -> None:
    counts = DecisionCounts()
    decide = decider_over(OracleLimiter(), observers=[counts])
    for _ in range(5):
        await decide(Request("GET", "/", "host", {"x-user-id": "u1"}, "203.0.113.9", {"api": "/a"}))
    samples = parsed(ReplicaMetrics(observed(counts)).exposition())
    assert by_name(samples, "decisions_total") == {
        ("/a", "allowed", "store", ""): 3,
        ("/a", "denied", "store", "user_api"): 2,
    }
    assert by_name(samples, "decision_seconds_count") == {(): 5}


def test_the_exposition_has_the_gauges_of_the_replica() -> None:
    samples = parsed(ReplicaMetrics(observed(DecisionCounts(), global_tokens=2.5)).exposition())
    assert by_name(samples, "in_flight") == {(): 4}
    assert by_name(samples, "policy_revision") == {(): 17}
    assert by_name(samples, "limit_capacity") == {("global",): 10, ("user",): 5, ("user_api",): 3}
    assert by_name(samples, "limit_refill_rate") == {("global",): 1, ("user",): 1, ("user_api",): 1}
    assert by_name(samples, "global_tokens") == {(): 2.5}
    [build] = by_name(samples, "build_info")
    assert "grpcio" in build


def test_unknown_tokens_have_no_sample() -> None:
    samples = parsed(ReplicaMetrics(observed(DecisionCounts())).exposition())
    assert by_name(samples, "global_tokens") == {}

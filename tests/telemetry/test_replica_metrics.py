"""The metrics of a replica: each value, and the text that Prometheus reads."""

import subprocess
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from ratelimitd.core.decision import Decision
from ratelimitd.core.match import MatchedRules
from ratelimitd.core.model import Identity, Outcome, Request, Verdict
from ratelimitd.telemetry.decision_counts import DecisionCounts
from ratelimitd.telemetry.label_names import label_text
from ratelimitd.telemetry.lease_counts import LeaseCounts
from ratelimitd.telemetry.replica_metrics import Observed, ReplicaMetrics
from ratelimitd.telemetry.store_calls import StoreCalls
from tests.core.fakes import FixedLimiter, FixedPolicies, OracleLimiter, decider_over
from tests.metrics_document import described, documented
from tests.required_programs import need

HOSTILE = [
    'quote"',
    "back\\slash",
    "line\nfeed\r\x0b\x85\u2028",
    "nul\x00\x1b[31m",
    "\u202eright-to-left",
    "bytes\udcff\udc80",
    "</script><!--",
    '{a="b"} 1 2\\',
    "ünïcode 日本",
    "very long" * 10_000,
]

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def exempt(api: str) -> Decision:
    """Returns a decision that takes no tokens."""
    request = Request("GET", "/", "host", {}, "203.0.113.9", {})
    return Decision(
        Verdict.EXEMPT,
        request,
        Identity("anonymous", ""),
        "",
        MatchedRules(None, None, api, exempt_by="routes[0]"),
    )


def observed(
    counts: DecisionCounts,
    calls: StoreCalls | None = None,
    shadow_denied: Mapping[str, int] | None = None,
    *,
    global_tokens: float | None = None,
    leases: LeaseCounts | None = None,
    certificate_expires_s: int | None = None,
) -> Observed:
    return Observed(
        transport="grpcio",
        store_timeout_s=0.05,
        decisions=counts,
        calls=calls or StoreCalls(),
        leases=leases or LeaseCounts(),
        in_flight=lambda: 4,
        policies=FixedPolicies(),
        revision=lambda: 17,
        shadow_denied=lambda: shadow_denied or {},
        global_bucket=lambda: global_tokens,
        certificate_expires_s=lambda: certificate_expires_s,
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
    metrics = ReplicaMetrics(observed(DecisionCounts(), global_tokens=2.5, certificate_expires_s=2**31))
    samples = parsed(metrics.exposition())
    assert by_name(samples, "in_flight") == {(): 4}
    assert by_name(samples, "policy_revision") == {(): 17}
    assert by_name(samples, "limit_capacity") == {("global",): 10, ("user",): 5, ("user_api",): 3}
    assert by_name(samples, "limit_refill_rate") == {("global",): 1, ("user",): 1, ("user_api",): 1}
    assert by_name(samples, "global_tokens") == {(): 2.5}
    assert by_name(samples, "tls_certificate_expiry_timestamp_seconds") == {(): 2**31}
    [build] = by_name(samples, "build_info")
    assert "grpcio" in build


def test_unknown_tokens_and_a_missing_certificate_have_no_sample() -> None:
    samples = parsed(ReplicaMetrics(observed(DecisionCounts())).exposition())
    assert by_name(samples, "global_tokens") == {}
    assert by_name(samples, "tls_certificate_expiry_timestamp_seconds") == {}


def test_the_exposition_has_the_calls_of_the_store() -> None:
    calls = StoreCalls()
    calls.seconds.observe(150_000)
    calls.seconds.observe(7_000_000_000)
    calls.batch_sizes.update([1, 3, 3, 64, 1024])
    calls.errors.update(["timeout", "timeout", "refused"])
    samples = parsed(ReplicaMetrics(observed(DecisionCounts(), calls)).exposition())
    seconds = by_name(samples, "store_call_seconds_bucket")
    assert [seconds[(bound,)] for bound in ("0.0001", "0.0002", "1.0", "+Inf")] == [0, 1, 1, 2]
    assert by_name(samples, "store_call_seconds_sum") == {(): 7.00015}
    sizes = by_name(samples, "store_batch_size_bucket")
    assert [sizes[(bound,)] for bound in ("1.0", "2.0", "4.0", "64.0", "1024.0", "+Inf")] == [
        1,
        1,
        3,
        4,
        5,
        5,
    ]
    assert by_name(samples, "store_batch_size_sum") == {(): 1 + 3 + 3 + 64 + 1024}
    errors = by_name(samples, "store_errors_total")
    assert (errors.pop(("timeout",)), errors.pop(("refused",))) == (2, 1)
    assert set(errors.values()) == {0}


def test_the_exposition_has_leased_tokens() -> None:
    leases = LeaseCounts()
    leases.leased, leases.spent = 12_000_000, 7_000_000
    samples = parsed(ReplicaMetrics(observed(DecisionCounts(), leases=leases)).exposition())
    assert by_name(samples, "leased_tokens_total") == {(): 12}
    assert by_name(samples, "leased_tokens_spent_total") == {(): 7}


def test_hostile_names_of_apis_are_read_by_prometheus_and_promtool() -> None:
    """The parser reads each name as it stands in the series, and no name adds a line."""
    need("promtool")
    names = [f"/{hostile}" for hostile in HOSTILE]
    counts = DecisionCounts()
    for name in names:
        counts.decided(exempt(name))
    text = ReplicaMetrics(observed(counts, shadow_denied={"tiers.user": 3})).exposition()
    apis = {api for api, *_ in by_name(parsed(text), "decisions_total")}
    assert apis == {label_text(name) for name in names}
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr.decode(), checked.stdout.decode()) == (0, "", "")


async def test_a_later_scrape_has_the_series_and_counts_since_the_first() -> None:
    counts = DecisionCounts()
    metrics = ReplicaMetrics(observed(counts))
    decide = decider_over(FixedLimiter(Outcome(allowed=True, tokens=(1, 1, 1))), observers=[counts])
    for number in range(1, 4):
        for api in ("/b", "/a")[: number - 1]:
            await decide(Request("GET", "/", "host", {}, "203.0.113.9", {"api": api}))
        found = by_name(parsed(metrics.exposition()), "decisions_total")
    assert found == {("/b", "allowed", "store", ""): 2, ("/a", "allowed", "store", ""): 1}


def test_the_document_lists_the_metrics_of_replicas() -> None:
    """Compares name, type and labels, both ways."""
    counts = DecisionCounts()
    counts.decided(exempt("/a"))
    metrics = ReplicaMetrics(
        observed(counts, shadow_denied={"tiers.user": 1}, global_tokens=1.0, certificate_expires_s=1)
    )
    assert described(metrics.exposition().decode()) == documented("Replicas")

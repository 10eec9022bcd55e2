"""The panels of the dashboard, by row. docs/metrics.md describes the metrics."""

from deploy.grafana.panels import Panel, distribution, lines, number, values
from deploy.grafana.queries import ADMIN, REPLICAS, decided, gauge, quantile, rate, share

DENIED = 'outcome="denied"'


def overview() -> list[Panel]:
    """Returns the numbers at the top."""
    capacity = gauge("limit_capacity", f'{REPLICAS}, tier="global"')
    bucket = f"min({gauge('global_tokens')}) / max({capacity})"
    return [
        number("Decisions", "reqps", "Decisions per second.", f"sum({decided()})"),
        number("Denied", "percentunit", "Part of the decisions.", share(DENIED)),
        number(
            "Undecided",
            "percentunit",
            "Part that got no outcome.",
            share('outcome="undecided"'),
            red_from=0.01,
        ),
        number("p99", "s", "99 % of the decisions take less.", quantile(0.99, "decision_seconds")),
        number("Global bucket", "percentunit", "Tokens, as a part of the capacity.", bucket, red_below=0.1),
        number(
            "Replicas",
            "none",
            "Replicas that are scraped.",
            f"count({gauge('in_flight')}) or vector(0)",
            red_below=1,
        ),
    ]


def decisions() -> list[Panel]:
    """Returns the row Decisions."""
    by_outcome = f"sum by (outcome) ({decided()})"
    by_tier = f"sum by (tier) ({decided(DENIED)}) / ignoring (tier) group_left sum({decided()})"
    by_api = f"topk(10, sum by (api) ({decided()}))"
    locally = {
        "all decisions": share('source="local"'),
        "denials": share(f'{DENIED}, source="local"', of=DENIED),
        "during an outage": share('source="degraded"'),
    }
    text = "Decisions per second. Undecided: the store gave no outcome."
    return [
        lines("Decisions by outcome", "reqps", text, {"{{outcome}}": by_outcome}, stacked=True),
        lines("Denied by tier", "percentunit", "Part of all decisions.", {"{{tier}}": by_tier}),
        lines("Decisions by API", "reqps", "The ten busiest APIs.", {"{{api}}": by_api}),
        lines(
            "Decided locally",
            "percentunit",
            "Part that a replica decided without the store. During an outage: from its share of the limits.",
            locally,
        ),
    ]


def _p50_and_p99(histogram: str) -> dict[str, str]:
    return {"p50": quantile(0.5, histogram), "p99": quantile(0.99, histogram)}


def latency() -> list[Panel]:
    """Returns the row Latency."""
    mean = f"sum({rate('store_batch_size_sum')}) / sum({rate('store_batch_size_count')})"
    batches = {"mean": mean, "p99": quantile(0.99, "store_batch_size")}
    buckets = f"sum by (le) ({rate('decision_seconds_bucket')})"
    timeout = f"max({gauge('store_timeout_seconds')})"
    durations = {**_p50_and_p99("decision_seconds"), "timeout of the store": timeout}
    text = "From the decoded request to the decision."
    return [
        lines("Duration of decisions", "s", text, durations),
        distribution("Decisions by duration", "s", "Decisions per second in each range.", buckets),
        lines("Duration of store calls", "s", "Successful calls.", _p50_and_p99("store_call_seconds")),
        lines("Decisions per store call", "none", "Concurrent decisions share a call.", batches),
    ]


def store() -> list[Panel]:
    """Returns the row Store."""
    errors = f"sum by (reason) ({rate('store_errors_total')})"
    in_flight = gauge("in_flight")
    waiting = {"all replicas": f"sum({in_flight})", "highest replica": f"max({in_flight})"}
    up = f"min({gauge('store_up', ADMIN)})"
    text = "Whether the store answers the admin service."
    return [
        lines("Store errors", "reqps", "Decisions without an outcome.", {"{{reason}}": errors}, width=8),
        lines("In flight", "none", "Decisions that wait for the store.", waiting, width=8),
        lines("Store up", "bool_on_off", text, {"store": up}, width=8),
    ]


def policy() -> list[Panel]:
    """Returns the row Policy."""
    revision = f"max by (instance) ({gauge('policy_revision')})"
    replicas = {
        legend: f"max({gauge(name, ADMIN)})"
        for legend, name in {
            "seen": "replicas",
            "behind": "replicas_behind",
            "silent": "replicas_silent",
        }.items()
    }
    limits = {
        name: f"max by (tier) ({gauge(metric)})"
        for name, metric in {"capacity": "limit_capacity", "tokens per s": "limit_refill_rate"}.items()
    }
    shadow = f"sum by (rule) ({rate('shadow_denied_total')})"
    same = "All replicas run the same revision within a second of a change."
    seen = "As listed in the store. Behind: with an older policy. Silent: not seen for 5 s."
    return [
        lines("Policy revision", "none", same, {"{{instance}}": revision}),
        lines("Replicas", "none", seen, replicas),
        values("Limits", "Limits of the tiers, where no route or override has its own.", limits),
        lines("Denied in shadow", "reqps", "By the rule that would deny.", {"{{rule}}": shadow}),
    ]


def buckets() -> list[Panel]:
    """Returns the row Buckets."""
    capacity = gauge("limit_capacity", f'{REPLICAS}, tier="global"')
    series = {"tokens": f"min({gauge('global_tokens')})", "capacity": f"max({capacity})"}
    return [lines("Global bucket", "none", "The bucket that all requests share.", series, width=24)]


def process() -> list[Panel]:
    """Returns the row Process."""
    of, over = f"{{{REPLICAS}}}", f"{{{REPLICAS}}}[$__rate_interval]"
    return [
        lines(title, unit, text, {"{{instance}}": f"sum by (instance) ({expr})"}, width=6)
        for title, unit, text, expr in (
            ("CPU", "percentunit", "Part of a core.", f"rate(process_cpu_seconds_total{over})"),
            ("Memory", "bytes", "Resident memory.", f"process_resident_memory_bytes{of}"),
            ("Garbage collections", "ops", "All generations.", f"rate(python_gc_collections_total{over})"),
            ("Open files", "percentunit", "Of the limit.", f"process_open_fds{of} / process_max_fds{of}"),
        )
    ]


ROWS = {
    "Decisions": decisions,
    "Latency": latency,
    "Store": store,
    "Policy": policy,
    "Buckets": buckets,
    "Process": process,
}

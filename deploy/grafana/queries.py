"""Builds expressions of PromQL. They cover the replicas that the variables of the dashboard select."""

REPLICAS = 'job=~"$job", instance=~"$instance"'
DECISIONS = f'{REPLICAS}, api=~"$api"'
ADMIN = 'job=~"$admin"'


def gauge(name: str, selector: str = REPLICAS) -> str:
    """Returns the values of a metric of ratelimitd."""
    return f"ratelimitd_{name}{{{selector}}}"


def rate(name: str, selector: str = REPLICAS) -> str:
    """Returns the increase of a counter of ratelimitd per second."""
    return f"rate({gauge(name, selector)}[$__rate_interval])"


def decided(selector: str = "") -> str:
    """Returns the decisions per second with these labels."""
    return rate("decisions_total", f"{DECISIONS}, {selector}" if selector else DECISIONS)


def share(selector: str, of: str = "") -> str:
    """Returns the part with the labels `selector` of the decisions with the labels `of`; 0 without any."""
    return f"(sum({decided(selector)}) or vector(0)) / sum({decided(of)})"


def quantile(part: float, histogram: str) -> str:
    """Returns a quantile over all replicas."""
    return f"histogram_quantile({part}, sum by (le) ({rate(f'{histogram}_bucket')}))"

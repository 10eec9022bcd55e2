"""The cluster that an Envoy sends the checks over HTTP to: the socket of the service inside it."""

from ratelimitd.errors import FrontConfigError
from ratelimitd.transport.fast.hop_routes import Config

_DEFAULT_MAX_REQUESTS = 1024
"""Envoy's limit of requests at once."""


def with_hop_cluster(clusters: list[Config], name: str, socket: str) -> str:
    """Adds a cluster with the settings and the statistics of the cluster `name`. Returns its name.

    Raises FrontConfigError if there is a cluster with that name.

    Args:
        clusters: the list that it is added to.
        name: of the cluster that the user's filter calls.
        socket: the name of the abstract Unix socket.
    """
    (theirs,) = (one for one in clusters if one["name"] == name)
    added = f"{name}.hop"
    if any(one["name"] == added for one in clusters):
        raise FrontConfigError(f"a cluster named {added} exists already: give it another name")
    endpoint = {"endpoint": {"address": {"pipe": {"path": f"@{socket}"}}}}
    cluster: Config = {
        "name": added,
        "alt_stat_name": theirs.get("alt_stat_name") or name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": added, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if "connect_timeout" in theirs:
        cluster["connect_timeout"] = theirs["connect_timeout"]
    if thresholds := (theirs.get("circuit_breakers") or {}).get("thresholds"):
        cluster["circuit_breakers"] = {"thresholds": [_threshold(one) for one in thresholds]}
    clusters.append(cluster)
    return added


def _threshold(theirs: Config) -> Config:
    """The same limit of requests at once for HTTP/1, where each request at once has a connection."""
    most = theirs.get("max_requests", _DEFAULT_MAX_REQUESTS)
    kept: Config = {key: theirs[key] for key in ("priority", "track_remaining") if key in theirs}
    return {**kept, "max_connections": most, "max_pending_requests": most}

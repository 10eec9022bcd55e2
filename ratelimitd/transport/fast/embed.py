"""The service inside the user's own Envoy: an internal listener, to which the cluster of the service points.

The calls stay gRPC, but need neither a socket nor a second process. The rest of the configuration stays.
"""

import copy
from collections.abc import Iterator
from typing import Any

from ratelimitd.errors import FrontConfigError
from ratelimitd.transport.fast.bootstrap import Config, filter_chain

LISTENER = "ratelimitd"
"""The name of the internal listener."""

_EXTENSION: Config = {
    "name": "envoy.bootstrap.internal_listener",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
    },
}

_KEPT = frozenset(
    {
        "name",
        "connect_timeout",
        "circuit_breakers",
        "typed_extension_protocol_options",
        "http2_protocol_options",
    }
)
"""Fields of the cluster that stay. How it finds and checks replicas means nothing inside one process."""


def with_service(config: Any, *, app: str, cluster: str) -> Config:
    """A copy of `config`, a parsed bootstrap, in which `cluster` is `app` (module:attribute), hosted here.

    Raises FrontConfigError, which says what is missing.
    """
    if not isinstance(config, dict) or not isinstance(config.get("static_resources"), dict):
        raise FrontConfigError("it must be an Envoy bootstrap, with static_resources")
    changed: Config = copy.deepcopy(config)
    resources = changed["static_resources"]
    clusters, listeners = (resources.get(kind) or [] for kind in ("clusters", "listeners"))
    if any(listener.get("name") == LISTENER for listener in listeners):
        raise FrontConfigError(f"a listener named {LISTENER} exists already: give it another name")
    resources["clusters"] = list(_clusters(clusters, cluster))
    resources["listeners"] = [
        *listeners,
        {"name": LISTENER, "internal_listener": {}, "filter_chains": [filter_chain(app)]},
    ]
    extensions = changed.get("bootstrap_extensions") or []
    if all(extension.get("name") != _EXTENSION["name"] for extension in extensions):
        changed["bootstrap_extensions"] = [*extensions, _EXTENSION]
    return changed


def _clusters(clusters: list[Config], name: str) -> Iterator[Config]:
    names = [cluster.get("name") for cluster in clusters]
    if name not in names:
        known = ", ".join(map(str, names)) or "none"
        raise FrontConfigError(
            f"unknown cluster {name!r}; known are: {known}. --cluster names the one that ext_authz calls"
        )
    for cluster in clusters:
        yield _internal(cluster) if cluster.get("name") == name else cluster


def _internal(cluster: Config) -> Config:
    if "http2_protocol_options" not in str(cluster):
        raise FrontConfigError(f"cluster {cluster['name']!r} needs http2_protocol_options: gRPC is HTTP/2")
    address = {"envoy_internal_address": {"server_listener_name": LISTENER}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {key: value for key, value in cluster.items() if key in _KEPT} | {
        "type": "STATIC",
        "load_assignment": {"cluster_name": cluster["name"], "endpoints": endpoints},
    }

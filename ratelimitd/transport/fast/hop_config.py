"""Has an Envoy ask the service inside it over HTTP, with the same result as over gRPC.

`hop_filters.py` replaces the filter, and `hop_routes.py` adds to the settings of the routes.
"""

import secrets
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from ratelimitd.errors import FrontConfigError
from ratelimitd.transport.fast.hop_cluster import with_hop_cluster
from ratelimitd.transport.fast.hop_filters import DIFFERENT, EXT_AUTHZ, filters
from ratelimitd.transport.fast.hop_routes import Config, copy_route_settings
from ratelimitd.transport.fast.metadata_readers import KEYS, texts
from ratelimitd.transport.hop_check import HopSettings

_DEFAULT_MAX_HEADERS, _DEFAULT_MAX_HEADERS_KB = 100, 60
"""Envoy's limits for the headers of a request, including headers that filters add."""

_MAX_DIGITS = 16
"""The most digits of a number of tokens."""

_CAMEL_CASE = frozenset(
    {
        "filterChains",
        "defaultFilterChain",
        "typedConfig",
        "httpFilters",
        "routeConfig",
        "virtualHosts",
        "typedPerFilterConfig",
        "weightedClusters",
        "checkSettings",
        "contextExtensions",
        "filterMetadata",
        "commonHttpProtocolOptions",
        "maxHeadersCount",
        "maxRequestHeadersKb",
        "altStatName",
        "circuitBreakers",
        "connectTimeout",
        "maxRequests",
        "upgradeConfigs",
        "upgradeType",
    }
)
"""Spellings that Envoy accepts too of fields that are read here and in `hop_routes.py`."""


def ask_over_http(
    config: Config, cluster: str, read: Collection[str] = KEYS, identified_by: Collection[str] = ()
) -> tuple[Config, HopSettings]:
    """A copy of a bootstrap in which the ext_authz filters that call `cluster` ask over HTTP.

    Args:
        config: the bootstrap.
        cluster: the name of the cluster of the service.
        read: the metadata that something in the user's configuration can read.
        identified_by: the headers, in lower case, that identify users and clients.

    Returns the copy and what the service must know. Raises FrontConfigError with what prevents it.
    """
    if different := sorted(DIFFERENT.intersection(identified_by)):
        raise FrontConfigError(f"the service cannot see the header {different[0]}, which identifies users")
    changed = _unshared(config)
    remaining = f"x-ratelimitd-hop-{secrets.token_hex(8)}" if "remaining" in read else None
    metadata = [key for key in read if key != "remaining"]
    settings = HopSettings(f"ratelimitd-{secrets.token_hex(8)}", metadata, remaining)
    clusters = changed["static_resources"]["clusters"]
    hop_cluster = with_hop_cluster(clusters, cluster, settings.socket)
    found = False
    for manager in _connection_managers(changed["static_resources"]["listeners"]):
        given = manager.get("http_filters") or []
        ours = [index for index, one in enumerate(given) if _calls(one, cluster)]
        if len(ours) > 1:
            raise FrontConfigError(f"two ext_authz filters in a row call the cluster {cluster!r}")
        for index in ours:
            found = True
            _refuse_connect(manager)
            name = f"ratelimitd.hop.{given[index]['name']}"
            copy_route_settings(manager, given[index]["name"], name)
            given[index : index + 1] = filters(
                name, hop_cluster, given[index], settings, _is_full(manager, remaining)
            )
    if not found:
        raise FrontConfigError(f"no ext_authz filter of a static listener calls the cluster {cluster!r}")
    return changed, settings


def _unshared(value: Any) -> Any:
    """A copy in which each part occurs once: parts that YAML aliases share must be changed apart.

    Raises FrontConfigError for a field in camel case, because it would be overlooked.
    """
    if isinstance(value, dict):
        if camel_case := sorted(_CAMEL_CASE & value.keys()):
            raise FrontConfigError(f"the field {camel_case[0]} is in camel case; write it in snake case")
        return {key: _unshared(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unshared(inner) for inner in value]
    return value


def _connection_managers(listeners: Iterable[Config]) -> Iterator[Config]:
    for listener in listeners:
        chains = [*(listener.get("filter_chains") or []), listener.get("default_filter_chain") or {}]
        for chain in chains:
            for one in chain.get("filters") or []:
                typed = one.get("typed_config") or {}
                if typed.get("@type", "").endswith(".HttpConnectionManager"):
                    yield typed


def _refuse_connect(manager: Config) -> None:
    """Raises FrontConfigError if clients may use CONNECT: over HTTP/1.1, its check would open a tunnel."""
    for name, text in texts("", manager):
        if name == "upgrade_type" and text.upper().startswith("CONNECT"):
            raise FrontConfigError(f"clients may use {text} (upgrade_configs)")


def _calls(one: Config, cluster: str) -> bool:
    typed = one.get("typed_config") or {}
    service = (typed.get("grpc_service") or {}).get("envoy_grpc") or {}
    return typed.get("@type") == EXT_AUTHZ and service.get("cluster_name") == cluster


def _is_full(manager: Config, remaining: str | None) -> str | None:
    """A format that says if the request has no room for the header `remaining`; None without such a header.

    Envoy answers a request with status 500 if a header of the check exceeds the limits.
    """
    if remaining is None:
        return None
    options = manager.get("common_http_protocol_options") or {}
    count = _number(options, "max_headers_count", _DEFAULT_MAX_HEADERS)
    size_kb = _number(manager, "max_request_headers_kb", _DEFAULT_MAX_HEADERS_KB)
    most_bytes = size_kb * 1024 - len(remaining) - _MAX_DIGITS
    return f"%CEL(size(request.headers) >= {count} || request.total_size > {most_bytes})%"


def _number(place: Config, name: str, default: int) -> int:
    value = place.get(name, default)
    if not isinstance(value, int):
        raise FrontConfigError(f"{name} is {value!r}; expected a number")
    return value

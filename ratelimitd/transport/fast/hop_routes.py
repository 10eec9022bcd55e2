"""Gives an ext_authz filter that asks over HTTP what routes set for one that asks over gRPC.

Envoy sends no context extensions over HTTP. So they become metadata of the route, which Envoy reads into a
header of the check.
"""

import copy
import json
from typing import Any

from ratelimitd.errors import FrontConfigError

Config = dict[str, Any]
"""A part of Envoy's configuration, as in JSON."""

_PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
_NAMESPACE = "ratelimitd.hop"

CONTEXT_FORMAT = f"%METADATA(ROUTE:{_NAMESPACE}:context)%"
"""The value of the header, in Envoy's format: a JSON object, or empty."""

_SAME_OVER_HTTP = frozenset(
    {"@type", "disabled", "check_settings", "context_extensions", "disable_request_body_buffering"}
)
"""Fields of the settings of a route with which a filter does the same over HTTP."""


def copy_route_settings(manager: Config, theirs: str, name: str) -> None:
    """Gives the filter `name` what the routes of a connection manager set for the filter `theirs`.

    Raises FrontConfigError with what prevents it.
    """
    table = manager.get("route_config")
    if table is None or "vhds" in table:
        raise FrontConfigError("the routes are not part of the configuration (route_config)")
    context = _copy_settings(table, theirs, name)
    for host in table.get("virtual_hosts") or []:
        if "matcher" in host:
            raise FrontConfigError(f"the virtual host {host.get('name')!r} has a matcher instead of routes")
        of_host = context | _copy_settings(host, theirs, name)
        for route in host.get("routes") or []:
            of_route = of_host | _copy_settings(route, theirs, name)
            _refuse_weighted_context(route, theirs, name)
            if of_route:
                metadata = route.setdefault("metadata", {}).setdefault("filter_metadata", {})
                metadata[_NAMESPACE] = {"context": json.dumps(of_route)}


def _refuse_weighted_context(route: Config, theirs: str, name: str) -> None:
    """Copies the settings of weighted clusters. Raises FrontConfigError if one has context extensions."""
    weighted = ((route.get("route") or {}).get("weighted_clusters") or {}).get("clusters") or []
    for one in weighted:
        if _copy_settings(one, theirs, name):
            raise FrontConfigError("a weighted cluster has context_extensions")


def _copy_settings(place: Config, theirs: str, name: str) -> dict[str, str]:
    """Copies the settings of one place. Returns its context extensions."""
    settings = place.get("typed_per_filter_config") or {}
    if theirs not in settings:
        return {}
    settings[name] = copy.deepcopy(settings[theirs])
    typed = settings[theirs] or {}
    if typed.get("@type", "").endswith(".FilterConfig"):
        typed = typed.get("config") or {}
    if not typed:
        return {}
    if typed.get("@type") != _PER_ROUTE:
        raise FrontConfigError(f"a route sets {typed.get('@type')} for the filter {theirs!r}")
    check: Config = typed.get("check_settings") or {}
    if strange := sorted((typed.keys() | check.keys()) - _SAME_OVER_HTTP):
        raise FrontConfigError(f"a route sets {', '.join(strange)} for the filter {theirs!r}")
    return check.get("context_extensions") or {}

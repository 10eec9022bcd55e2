"""Configuration of the front Envoy and of its backend.

The front Envoy uses the shipped envoy.yaml with these differences:

- The backend is another Envoy with a fixed response: a Python backend would dominate the measurement.
- It writes no access log, unless a measurement is about it.
- On /api/many the user id is made of the query and the client's port, because h2load can vary the path, but
  not a header.
- ext_authz waits 5 s instead of 0.25 s: on a busy machine, late answers must not become errors.
"""

from typing import Any

import yaml

from ratelimitd.address import TcpAddress
from ratelimitd.demo.envoy_config import envoy_config

HOT_PATH = "/api/ping"
MANY_PATH = "/api/many?u="
_EXT_AUTHZ = "envoy.filters.http.ext_authz"
_MUTATION = "envoy.filters.http.header_mutation"
_TYPE = "type.googleapis.com/envoy.extensions.filters"
_MUTATION_TYPE = f"{_TYPE}.http.header_mutation.v3.HeaderMutationPerRoute"
_UNUSED = TcpAddress("127.0.0.1", 9)


def front_config(
    listener: TcpAddress, backend: TcpAddress, service: TcpAddress | None, *, limited: bool
) -> str:
    """YAML of the front Envoy. `front_bootstrap` describes the arguments."""
    return yaml.safe_dump(front_bootstrap(listener, backend, service, limited=limited))


def front_bootstrap(
    listener: TcpAddress,
    backend: TcpAddress,
    service: TcpAddress | None,
    *,
    limited: bool,
    logged: bool = False,
) -> dict[str, Any]:
    """The configuration of the front Envoy.

    Args:
        listener: where it accepts requests.
        backend: where it forwards them to.
        service: None if nothing is limited or the service runs inside.
        limited: whether it calls the service.
        logged: whether it writes an access log.
    """
    clusters = {"ratelimitd": [service or _UNUSED], "backend": [backend]}
    config: dict[str, Any] = yaml.safe_load(envoy_config(listener=listener, admin=_UNUSED, clusters=clusters))
    del config["admin"]
    resources = config["static_resources"]
    connections = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    if not logged:
        del connections["access_log"]
    (host,) = connections["route_config"]["virtual_hosts"]
    host["routes"] = [_many(host["routes"][0]), *host["routes"]]
    for one in connections["http_filters"]:
        if one["name"] == _EXT_AUTHZ:
            one["typed_config"]["grpc_service"]["timeout"] = "5s"
    if not limited:
        filters = connections["http_filters"]
        connections["http_filters"] = [one for one in filters if one["name"] != _EXT_AUTHZ]
        resources["clusters"] = [one for one in resources["clusters"] if one["name"] == "backend"]
    return config


def _many(route: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of the limited route that makes a user id for each request."""
    header = {"key": "x-user-id", "value": "u%QUERY_PARAM(u)%-%DOWNSTREAM_REMOTE_PORT%"}
    append = {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    mutation = {"@type": _MUTATION_TYPE, "mutations": {"request_mutations": [{"append": append}]}}
    settings = {**route["typed_per_filter_config"], _MUTATION: mutation}
    return {**route, "match": {"path": "/api/many"}, "typed_per_filter_config": settings}


def backend_config(listener: TcpAddress) -> str:
    """YAML of an Envoy that returns a fixed response to every request."""
    pong = {"status": 200, "body": {"inline_string": '{"message":"pong"}'}}
    route = {"match": {"prefix": "/"}, "direct_response": pong}
    manager = {
        "@type": f"{_TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "backend",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.http.router.v3.Router"},
            }
        ],
    }
    connections = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    address = {"socket_address": {"address": listener.host, "port_value": listener.port}}
    chain = {"filters": [connections]}
    return yaml.safe_dump(
        {
            "static_resources": {
                "listeners": [{"name": "backend", "address": address, "filter_chains": [chain]}]
            }
        }
    )

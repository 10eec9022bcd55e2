"""The Envoy that is driven: the shipped envoy.yaml, with what the bench needs otherwise.

- The backend is another Envoy, which answers by itself: one of Python would be most of what is measured.
- There is no access log.
- /api/many makes the user of the query and the client's port: h2load can vary a path, but no header.
- ext_authz waits 5 s instead of 0.25: on a busy machine a late answer is a late answer, not an error.
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
_NOBODY = TcpAddress("127.0.0.1", 9)


def front_config(
    listener: TcpAddress, backend: TcpAddress, service: TcpAddress | None, *, limited: bool
) -> str:
    """Envoy's configuration; `service` is None where something else says who decides."""
    clusters = {"ratelimitd": [service or _NOBODY], "backend": [backend]}
    config: Any = yaml.safe_load(envoy_config(listener=listener, admin=_NOBODY, clusters=clusters))
    del config["admin"]
    resources = config["static_resources"]
    connections = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
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
    return yaml.safe_dump(config)


def _many(route: dict[str, Any]) -> dict[str, Any]:
    """A route like the limited one, whose users are many."""
    header = {"key": "x-user-id", "value": "u%QUERY_PARAM(u)%-%DOWNSTREAM_REMOTE_PORT%"}
    append = {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    mutation = {"@type": _MUTATION_TYPE, "mutations": {"request_mutations": [{"append": append}]}}
    settings = {**route["typed_per_filter_config"], _MUTATION: mutation}
    return {**route, "match": {"path": "/api/many"}, "typed_per_filter_config": settings}


def backend_config(listener: TcpAddress) -> str:
    """An Envoy that answers every request itself."""
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

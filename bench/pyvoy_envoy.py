"""The Envoy of `pyvoy_calls`, which answers on three listeners."""

from typing import Any

from bench import pyvoy_echo
from ratelimitd.address import TcpAddress
from ratelimitd.transport.fast.bootstrap import filter_chain

PYVOY, BY_SOCKET, DIRECT = "pyvoy", "socket", "direct"
"""Who answers: the application through pyvoy, the same process over a socket, or Envoy without Python."""

_TYPE = "type.googleapis.com/envoy.extensions.filters"


def config(addresses: dict[str, TcpAddress], socket: str) -> dict[str, Any]:
    """The configuration of an Envoy with one listener for each of PYVOY, BY_SOCKET and DIRECT."""
    hosted = filter_chain(f"{pyvoy_echo.__name__}:application")
    filters = hosted["filters"][0]["typed_config"]["http_filters"]
    hosted["filters"][0]["typed_config"]["http_filters"] = filters[-1:]  # that of pyvoy alone
    chains = {
        PYVOY: hosted,
        BY_SOCKET: _chain({"route": {"cluster": "echo"}}),
        DIRECT: _chain({"direct_response": {"status": 200}}),
    }
    endpoint = {"endpoint": {"address": {"pipe": {"path": f"@{socket}"}}}}
    cluster = {"cluster_name": "echo", "endpoints": [{"lb_endpoints": [endpoint]}]}
    listeners = [
        {
            "name": name,
            "address": {"socket_address": {"address": address.host, "port_value": address.port}},
            "filter_chains": [chains[name]],
        }
        for name, address in addresses.items()
    ]
    clusters = [{"name": "echo", "type": "STATIC", "load_assignment": cluster}]
    return {
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "stats_config": {"stats_matcher": {"reject_all": True}},
    }


def _chain(action: dict[str, Any]) -> dict[str, Any]:
    """A filter chain that does this with every request, and adds no headers, as pyvoy does not."""
    router = {"@type": f"{_TYPE}.http.router.v3.Router", "suppress_envoy_headers": True}
    connections = {
        "@type": f"{_TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "generate_request_id": False,
        "stream_idle_timeout": "0s",
        "server_header_transformation": "PASS_THROUGH",
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}
            ]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    return {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]
    }

"""Changes the addresses in the shipped envoy.yaml, and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ratelimitd.address import TcpAddress
from ratelimitd.resources import resource


def envoy_config(
    *, listener: TcpAddress, admin: TcpAddress, clusters: Mapping[str, Sequence[TcpAddress]]
) -> str:
    """Returns envoy/envoy.yaml with these addresses to listen on and these endpoints for each cluster."""
    config: Any = yaml.safe_load(resource("envoy/envoy.yaml").read_text())
    config["admin"]["address"] = _address(admin)
    (front,) = config["static_resources"]["listeners"]
    front["address"] = _address(listener)
    for cluster in config["static_resources"]["clusters"]:
        endpoints = [{"endpoint": {"address": _address(address)}} for address in clusters[cluster["name"]]]
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
    return yaml.safe_dump(config)


def _address(address: TcpAddress) -> dict[str, Any]:
    return {"socket_address": {"address": address.host, "port_value": address.port}}

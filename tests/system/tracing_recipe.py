"""The tracing of Envoy that docs/operations.md describes."""

import re
from pathlib import Path
from typing import Any

import yaml

from tests.otlp_receiver import Receiver
from tests.system.changed_front import Config, connection_manager, http_filters

FRONT = "front-envoy"
"""The service name of Envoy in the recipe."""


def tracing_recipe() -> tuple[Any, Any]:
    """Returns the field of the connection manager, and the cluster of the collector."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    (tracing,) = (block for block in blocks if isinstance(block, dict) and "tracing" in block)
    (cluster,) = (block for block in blocks if isinstance(block, dict) and "otel" in block.get("name", ""))
    return tracing, cluster


def traced_to(receiver: Receiver, config: Config) -> None:
    """Adds the recipe for this receiver. Every request is sampled, and a check may take long."""
    tracing, cluster = tracing_recipe()
    assert tracing["tracing"]["random_sampling"] == {"value": 1}
    tracing["tracing"]["random_sampling"] = {"value": 100}
    connection_manager(config).update(tracing)
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoint["endpoint"]["address"]["socket_address"] = {
        "address": "127.0.0.1",
        "port_value": receiver.grpc_port,
    }
    config["static_resources"]["clusters"].append(cluster)
    http_filters(config)["envoy.filters.http.ext_authz"]["grpc_service"]["timeout"] = "10s"
    # By default, Envoy keeps its spans until there are five of them or five seconds are over.
    at_once = {"tracing.opentelemetry.min_flush_spans": 1}
    config["layered_runtime"] = {"layers": [{"name": "test", "static_layer": at_once}]}

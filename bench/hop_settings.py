"""Settings of an Envoy with the service inside, each alone, to find which of them cost CPU.

Some change what the service does, so they tell only what the feature costs.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from bench.rungs import CLUSTER, FrontParts, asking
from ratelimitd.transport.hop_check import FULL as FULL_HEADER

_EXT_AUTHZ = "envoy.filters.http.ext_authz"
_AS_NUMBER = f"ratelimitd.hop.{_EXT_AUTHZ}.remaining"
_PYVOY = "pyvoy"


def _nothing(_parts: FrontParts) -> None:
    """Changes nothing."""


@dataclass(frozen=True)
class Setting:
    """One setting.

    Args:
        name: on the command line and in the table.
        text: what is different.
        change: changes the configuration.
        concurrency: the number of worker threads of the Envoy.
    """

    name: str
    text: str
    change: Callable[[FrontParts], None] = _nothing
    concurrency: int = 2


def _without_filter(name: str) -> Callable[[FrontParts], None]:
    """Removes a filter of the front Envoy."""

    def change(parts: FrontParts) -> None:
        filters = parts.front["http_filters"]
        parts.front["http_filters"] = [one for one in filters if one["name"] != name]

    return change


def _no_disallowed_headers(parts: FrontParts) -> None:
    del asking(parts.bootstrap)["disallowed_headers"]


def _no_added_headers(parts: FrontParts) -> None:
    del asking(parts.bootstrap)["http_service"]["authorization_request"]


def _no_full_header(parts: FrontParts) -> None:
    request = asking(parts.bootstrap)["http_service"]["authorization_request"]
    request["headers_to_add"] = [one for one in request["headers_to_add"] if one["key"] != FULL_HEADER]


def _no_limit_fields(parts: FrontParts) -> None:
    del asking(parts.bootstrap)["http_service"]["authorization_response"]["allowed_client_headers_on_success"]


def _no_statistics(parts: FrontParts) -> None:
    patterns = [{"prefix": f"cluster.{CLUSTER}."}]
    parts.bootstrap["stats_config"] = {"stats_matcher": {"exclusion_list": {"patterns": patterns}}}


def _no_circuit_breakers(parts: FrontParts) -> None:
    del parts.cluster["circuit_breakers"]


def _asyncio(parts: FrontParts) -> None:
    one = next(one for one in parts.internal["http_filters"] if one["name"] == _PYVOY)
    config = one["typed_config"]["filter_config"]
    config["value"] = json.dumps(json.loads(config["value"]) | {"loop": "asyncio"})


SAME = Setting("same", "none: shows the noise of the machine")

SETTINGS = (
    SAME,
    Setting("no-second-filter", "no gRPC filter for what is handed over", _without_filter(_EXT_AUTHZ)),
    Setting("no-number-filter", "no filter that makes `remaining` a number", _without_filter(_AS_NUMBER)),
    Setting("no-disallowed", "no disallowed_headers", _no_disallowed_headers),
    Setting("no-added-headers", "no path, peer and context in the check: fewer limits", _no_added_headers),
    Setting("no-full-header", "no header that says if there is room for `remaining`", _no_full_header),
    Setting("no-limit-fields", "allowed responses have no RateLimit fields", _no_limit_fields),
    Setting("no-statistics", "no statistics of the cluster", _no_statistics),
    Setting("no-breakers", "no circuit breakers of the cluster", _no_circuit_breakers),
    Setting("asyncio", "asyncio instead of uvloop", _asyncio),
    Setting("concurrency-1", "one worker thread of Envoy", concurrency=1),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}

"""The three filters that replace an ext_authz filter, so that it asks over HTTP with the same result.

The first asks over HTTP. The second is the user's, which asks over gRPC: it is enabled only for requests
whose response is handed over (`transport/hand_over.py`). The third makes a number of the metadata
`remaining`, because all metadata of a response over HTTP is text.
"""

import copy
import re
from collections.abc import Iterable
from typing import Any

from ratelimitd.errors import FrontConfigError
from ratelimitd.transport import hand_over
from ratelimitd.transport.ext_authz import NAMESPACE
from ratelimitd.transport.fast.hop_routes import CONTEXT_FORMAT, Config
from ratelimitd.transport.hop_check import CONTEXT, FULL, PATH, PEER, HopSettings

_FILTERS = "type.googleapis.com/envoy.extensions.filters.http."
EXT_AUTHZ = f"{_FILTERS}ext_authz.v3.ExtAuthz"
"""The type of the user's filter."""

_TO_METADATA = f"{_FILTERS}header_to_metadata.v3.Config"

_CLIENT_HEADERS = ("ratelimit-policy", "ratelimit")
_DENIED_HEADERS = (
    "content-type",
    "retry-after",
    "x-ratelimit-tier",
    "x-envoy-ratelimited",
    "grpc-status",
)

_OURS = (CONTEXT, FULL, PATH, PEER)
"""Headers that only Envoy may set."""

_OF_ONE_CONNECTION = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", "expect"}
)
_TRACE = "traceparent"
"""Says which trace the check belongs to, so only Envoy may set it."""

_OF_THE_CHECK = ("content-length", "x-envoy-expected-rq-timeout-ms", "x-envoy-internal")

DIFFERENT = frozenset({*_OURS, *_OF_ONE_CONNECTION, _TRACE, *_OF_THE_CHECK})
"""Headers of the client's request that the service does not see, or sees with another value."""

_DEFAULT_TIMEOUT = "0.2s"
"""Envoy's timeout of a check."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)s")

_SAME_OVER_HTTP = frozenset(
    {
        "@type",
        "transport_api_version",
        "grpc_service",
        "failure_mode_allow",
        "failure_mode_allow_header_add",
        "status_on_error",
        "validate_mutations",
        "metadata_context_namespaces",
        "filter_enabled",
        "deny_at_disable",
        "include_peer_certificate",
        "include_tls_session",
        "stat_prefix",
        "allowed_headers",
        "disallowed_headers",
        "charge_cluster_response_stats",
        "encode_raw_headers",
    }
)
"""Fields of the filter with which it does the same over HTTP."""


def filters(
    name: str, cluster: str, ours: Config, settings: HopSettings, is_full: str | None
) -> list[Config]:
    """The filters that replace a filter.

    Args:
        name: of the first of them.
        cluster: the name of the cluster of the checks over HTTP.
        ours: the filter.
        settings: what the service sends.
        is_full: a format that says if a request has no room for the header `remaining`; None for no such
            header.

    Raises FrontConfigError with what prevents it.
    """
    as_number = [] if settings.remaining is None else [_as_number(name, settings.remaining)]
    over_http = _over_http(name, cluster, copy.deepcopy(ours), settings, is_full)
    return [over_http, _over_grpc(ours), *as_number]


def _over_http(name: str, cluster: str, ours: Config, settings: HopSettings, is_full: str | None) -> Config:
    typed = dict(ours["typed_config"])
    if strange := sorted(typed.keys() - _SAME_OVER_HTTP):
        raise FrontConfigError(f"the filter {ours['name']!r} sets {', '.join(strange)}")
    if typed.get("encode_raw_headers") is not True:
        raise FrontConfigError(f"the filter {ours['name']!r} does not set encode_raw_headers: true")
    service = typed.pop("grpc_service")
    typed.pop("metadata_context_namespaces", None)
    typed.setdefault("allowed_headers", {"patterns": [{"safe_regex": {"regex": ".*"}}]})
    disallowed = (typed.get("disallowed_headers") or {}).get("patterns") or []
    not_sent = _exactly((*_OURS, *sorted(_OF_ONE_CONNECTION), _TRACE))
    typed["disallowed_headers"] = {"patterns": [*disallowed, *not_sent]}
    timeout = service.get("timeout", _DEFAULT_TIMEOUT)
    typed["http_service"] = {
        "server_uri": {
            "uri": "http://ratelimitd",
            "cluster": cluster,
            "timeout": timeout,
        },
        "path_override": f"/{_seconds(timeout)}",
        "authorization_request": {
            "headers_to_add": [
                {"key": PATH, "value": "%REQ(:path)%"},
                {"key": PEER, "value": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"},
                {"key": CONTEXT, "value": CONTEXT_FORMAT},
                *([] if is_full is None else [{"key": FULL, "value": is_full}]),
            ]
        },
        "authorization_response": _authorization_response(settings),
    }
    return {**ours, "name": name, "typed_config": typed}


def _authorization_response(settings: HopSettings) -> Config:
    """What Envoy does with the headers of a response. Without a list it would use all of them."""
    remaining = [] if settings.remaining is None else [settings.remaining]
    return {
        **({"allowed_upstream_headers": {"patterns": _exactly(remaining)}} if remaining else {}),
        "allowed_client_headers": {"patterns": _exactly([*_CLIENT_HEADERS, *_DENIED_HEADERS, *remaining])},
        "allowed_client_headers_on_success": {"patterns": _exactly(_CLIENT_HEADERS)},
        "dynamic_metadata_from_headers": {"patterns": _exactly([*settings.metadata, hand_over.KEY])},
    }


def _seconds(timeout: Any) -> str:
    """The seconds of a duration, for example `0.25s`; `inf` for 0, with which Envoy waits without end."""
    found = _DURATION.fullmatch(str(timeout))
    if found is None:
        raise FrontConfigError(f"the timeout of an ext_authz filter is {timeout!r}; expected e.g. 0.25s")
    return found[1] if float(found[1]) else "inf"


def _exactly(names: Iterable[str]) -> list[Config]:
    return [{"exact": name} for name in names]


def _over_grpc(ours: Config) -> Config:
    typed = dict(ours["typed_config"])
    # The filter before it has applied them.
    for key in ("filter_enabled", "deny_at_disable"):
        typed.pop(key, None)
    typed["filter_enabled_metadata"] = {
        "filter": NAMESPACE,
        "path": [{"key": hand_over.KEY}],
        "value": {"present_match": True},
    }
    typed["metadata_context_namespaces"] = [*(typed.get("metadata_context_namespaces") or []), NAMESPACE]
    return {**ours, "typed_config": typed}


def _as_number(name: str, remaining: str) -> Config:
    rule = {
        "header": remaining,
        "on_header_present": {"metadata_namespace": NAMESPACE, "key": "remaining", "type": "NUMBER"},
        "remove": True,
    }
    typed = {"@type": _TO_METADATA, "request_rules": [rule], "response_rules": [copy.deepcopy(rule)]}
    return {"name": f"{name}.remaining", "typed_config": typed}

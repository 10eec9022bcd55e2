"""The rungs of the ladder: Envoys that each do one thing more than the Envoy of the rung before.

The lowest forwards requests without a limit, the highest asks the complete service inside it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from bench import echo
from bench.front_envoy import front_bootstrap
from ratelimitd.address import TcpAddress
from ratelimitd.app import HOSTED
from ratelimitd.transport.fast.embed import with_service
from ratelimitd.transport.fast.hop_config import ask_over_http
from ratelimitd.transport.fast.hop_routes import Config
from ratelimitd.transport.fast.metadata_readers import metadata_read
from ratelimitd.transport.hop_check import VARIABLE

CLUSTER = "ratelimitd"
"""The cluster that the ext_authz filter calls."""


class Log(StrEnum):
    """The access log of the front Envoy."""

    NONE = "none"
    READ = "reads the metadata, writes nothing"
    WRITTEN = "writes a line for each request"


@dataclass(frozen=True)
class Rung:
    """One rung.

    Args:
        name: on the command line and in the tables.
        adds: what it adds to the rung `above`.
        above: the name of the rung that it is compared with; empty for none.
        app: the application inside the Envoy, as module:attribute; empty if the Envoy runs no Python.
        limited: whether the Envoy asks before it forwards.
        http: whether it asks over HTTP; otherwise over gRPC.
        internal: whether the check over HTTP goes to an internal listener instead of the socket.
        answers: whether the client gets the fields of a decision.
        stored: whether each request takes tokens in the store.
        log: the access log.
    """

    name: str
    adds: str
    above: str = ""
    app: str = ""
    limited: bool = True
    http: bool = True
    internal: bool = False
    answers: bool = True
    stored: bool = False
    log: Log = Log.NONE


FULL = "metadata"
"""The rung that the settings are compared with."""

RUNGS = (
    Rung("none", "no limit", limited=False, answers=False),
    Rung(
        "bare",
        "asks over HTTP; Python answers without headers",
        "none",
        "bench.ladder_echo:bare",
        answers=False,
    ),
    Rung("headers", "the headers of a decision", "bare", "bench.ladder_echo:headers"),
    Rung("decode", "decodes the check", "headers", "bench.ladder_echo:decoding"),
    Rung(
        "decide", "decides with buckets in memory, encodes, counts", "decode", "bench.in_memory:application"
    ),
    Rung("store", "takes tokens in the store", "decide", HOSTED, stored=True),
    Rung(FULL, "metadata, which an access log can read", "store", HOSTED, stored=True, log=Log.READ),
    Rung("log", "the access log is written", FULL, HOSTED, stored=True, log=Log.WRITTEN),
    Rung(
        "direct", "asks an internal listener over HTTP/2; Envoy answers", "none", internal=True, answers=False
    ),
    Rung(
        "pyvoy",
        "Python answers, over pyvoy",
        "direct",
        "bench.ladder_echo:pyvoy",
        internal=True,
        answers=False,
    ),
    Rung("grpc-echo", "asks over gRPC; Python answers", "none", echo.APPLICATION, http=False),
    Rung("grpc", "the complete service", "grpc-echo", HOSTED, http=False, stored=True),
    Rung("grpc-log", "the access log is written", "grpc", HOSTED, http=False, stored=True, log=Log.WRITTEN),
)
BY_NAME = {rung.name: rung for rung in RUNGS}


class FrontParts(NamedTuple):
    """The configuration of an Envoy with the service inside, and those parts of it that settings change.

    Args:
        bootstrap: all of it.
        front: the connection manager that clients talk to.
        internal: the connection manager of the internal listener.
        cluster: the cluster of the checks over HTTP.
    """

    bootstrap: Config
    front: Config
    internal: Config
    cluster: Config


def front_of(rung: Rung, listener: TcpAddress, backend: TcpAddress) -> tuple[Config, Mapping[str, str]]:
    """The configuration of the rung's Envoy, and the variables that its application needs."""
    logged = rung.log is not Log.NONE
    config: Config = front_bootstrap(listener, backend, None, limited=rung.limited, logged=logged)
    if rung.log is Log.READ:
        (log,) = _connection_manager(config, 0)["access_log"]
        log["filter"] = _NEVER
    if not rung.limited:
        return config, {}
    read = metadata_read(config)
    config = with_service(config, app=rung.app or ":", cluster=CLUSTER)
    if not rung.app:
        _answer_without_python(_connection_manager(config, -1))
    if not rung.http:
        return config, {}
    config, settings = ask_over_http(config, CLUSTER, read)
    if rung.internal:
        asking(config)["http_service"]["server_uri"]["cluster"] = CLUSTER
    return config, {VARIABLE: json.dumps(settings)}


def asking(config: Config) -> Config:
    """The filter that asks over HTTP."""
    filters = _connection_manager(config, 0)["http_filters"]
    (one,) = [one for one in filters if "http_service" in one["typed_config"]]
    typed: Config = one["typed_config"]
    return typed


_NEVER: Config = {
    "status_code_filter": {
        "comparison": {"op": "GE", "value": {"default_value": 1000, "runtime_key": "bench.never"}}
    }
}
"""The filter of an access log that keeps out all requests: no status is so large."""


def parts_of(config: Config) -> FrontParts:
    """The parts of an Envoy that asks over HTTP. The cluster of its checks is the last."""
    cluster = config["static_resources"]["clusters"][-1]
    return FrontParts(config, _connection_manager(config, 0), _connection_manager(config, -1), cluster)


def _connection_manager(config: Config, listener: int) -> Config:
    (chain,) = config["static_resources"]["listeners"][listener]["filter_chains"]
    (one,) = chain["filters"]
    manager: Config = one["typed_config"]
    return manager


def _answer_without_python(internal: Config) -> None:
    """Replaces the filter that calls Python by an empty response."""
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    internal["http_filters"][-1] = router
    (host,) = internal["route_config"]["virtual_hosts"]
    host["routes"] = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]

"""The configuration with which an Envoy asks the service inside it over HTTP."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from ratelimitd.errors import FrontConfigError
from ratelimitd.resources import resource
from ratelimitd.transport.fast.hop_config import ask_over_http
from tests.system.changed_front import Config, connection_manager, http_filters, virtual_host

EXT_AUTHZ = "envoy.filters.http.ext_authz"
OVER_HTTP = f"ratelimitd.hop.{EXT_AUTHZ}"


def shipped() -> Config:
    return yaml.safe_load(resource("envoy/envoy.yaml").read_text())


def context_of(route: Config) -> Any:
    """Returns the context that the header carries for a route, as JSON text; None if there is none."""
    return route.get("metadata", {}).get("filter_metadata", {}).get("ratelimitd.hop", {}).get("context")


def per_route(**check_settings: Any) -> Config:
    kind = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
    return {EXT_AUTHZ: {"@type": kind, "check_settings": check_settings}}


def cluster_named(config: Config, name: str) -> Config:
    (cluster,) = [one for one in config["static_resources"]["clusters"] if one["name"] == name]
    return cluster


def test_the_given_configuration_stays_and_the_users_filter_asks_only_for_decisions_handed_over() -> None:
    given = shipped()
    before = copy.deepcopy(given)
    changed, settings = ask_over_http(given, "ratelimitd")
    assert given == before
    names = [one["name"] for one in connection_manager(changed)["http_filters"]]
    index = names.index(OVER_HTTP)
    assert names[index : index + 3] == [OVER_HTTP, EXT_AUTHZ, f"{OVER_HTTP}.remaining"]
    filters = http_filters(changed)
    grpc = filters[EXT_AUTHZ]
    assert grpc["filter_enabled_metadata"]["path"] == [{"key": "hand-over"}]
    assert {key: value for key, value in grpc.items() if key in before_filter(before)} == before_filter(
        before
    )
    http = filters[OVER_HTTP]
    assert http["http_service"]["server_uri"]["timeout"] == grpc["grpc_service"]["timeout"] == "0.25s"
    assert http["http_service"]["path_override"] == "/0.25"
    assert http["status_on_error"] == grpc["status_on_error"]
    assert http["http_service"]["server_uri"]["cluster"] == "ratelimitd.hop"
    assert cluster_named(changed, "ratelimitd.hop")["load_assignment"]["endpoints"] == [
        {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": f"@{settings.socket}"}}}}]}
    ]
    assert str(settings.remaining) in str(filters[f"{OVER_HTTP}.remaining"])


def test_parts_that_yaml_aliases_share_are_changed_apart() -> None:
    given = shipped()
    (listener,) = given["static_resources"]["listeners"]
    given["static_resources"]["listeners"] = [listener, listener | {"name": "second"}]
    table = connection_manager({"static_resources": {"listeners": [listener]}})["route_config"]
    (host,) = table["virtual_hosts"]
    other = host | {"name": "other", "typed_per_filter_config": per_route(context_extensions={"a": "other"})}
    table["virtual_hosts"] = [host, other]
    changed, _ = ask_over_http(given, "ratelimitd")
    for one in changed["static_resources"]["listeners"]:
        manager = connection_manager({"static_resources": {"listeners": [one]}})
        names = [each["name"] for each in manager["http_filters"]]
        assert len(names) == len(set(names))
        contexts = [context_of(each["routes"][0]) for each in manager["route_config"]["virtual_hosts"]]
        assert contexts == ['{"api": "/api/*"}', '{"a": "other", "api": "/api/*"}']


def test_an_envoy_that_waits_without_end_says_so() -> None:
    given = shipped()
    http_filters(given)[EXT_AUTHZ]["grpc_service"]["timeout"] = "0s"
    http = http_filters(ask_over_http(given, "ratelimitd")[0])[OVER_HTTP]
    assert http["http_service"]["path_override"] == "/inf"


def test_a_header_that_identifies_users_must_reach_the_service() -> None:
    with pytest.raises(FrontConfigError) as raised:
        ask_over_http(shipped(), "ratelimitd", identified_by=("x-user-id", "x-envoy-internal"))
    assert str(raised.value) == "the service cannot see the header x-envoy-internal, which identifies users"


def before_filter(config: Config) -> Config:
    return http_filters(config)[EXT_AUTHZ]


def test_each_start_chooses_other_names_for_the_socket_and_the_header_that_a_client_must_not_know() -> None:
    first, second = (ask_over_http(shipped(), "ratelimitd")[1] for _ in range(2))
    assert first.remaining != second.remaining
    assert first.socket != second.socket


def test_as_many_checks_as_before_may_be_under_way_and_the_statistics_keep_their_name() -> None:
    given = shipped()
    theirs = cluster_named(given, "ratelimitd")
    theirs["connect_timeout"] = "0.125s"
    theirs["circuit_breakers"] = {
        "thresholds": [
            {"max_requests": 7, "track_remaining": True},
            {"priority": "HIGH", "max_connections": 1},
        ]
    }
    added = cluster_named(ask_over_http(given, "ratelimitd")[0], "ratelimitd.hop")
    assert added["circuit_breakers"]["thresholds"] == [
        {"track_remaining": True, "max_connections": 7, "max_pending_requests": 7},
        {"priority": "HIGH", "max_connections": 1024, "max_pending_requests": 1024},
    ]
    assert (added["connect_timeout"], added["alt_stat_name"]) == ("0.125s", "ratelimitd")
    theirs["alt_stat_name"] = "limiter"
    del theirs["circuit_breakers"]
    added = cluster_named(ask_over_http(given, "ratelimitd")[0], "ratelimitd.hop")
    assert added["alt_stat_name"] == "limiter"
    assert "circuit_breakers" not in added


def test_a_route_adds_its_context_to_that_of_its_host_and_of_the_table() -> None:
    given = shipped()
    host = virtual_host(given)
    connection_manager(given)["route_config"]["typed_per_filter_config"] = per_route(
        context_extensions={"a": "table", "b": "table", "c": "table"}
    )
    host["typed_per_filter_config"] = per_route(context_extensions={"b": "host", "c": "host"})
    host["routes"][0]["typed_per_filter_config"] = per_route(context_extensions={"c": 'r"ä'})
    routes = virtual_host(ask_over_http(given, "ratelimitd")[0])["routes"]
    assert context_of(routes[0]) == '{"a": "table", "b": "host", "c": "r\\"\\u00e4"}'
    assert context_of(routes[-1]) == '{"a": "table", "b": "host", "c": "host"}'
    settings = routes[-1]["typed_per_filter_config"]
    assert (
        settings[OVER_HTTP]
        == settings[EXT_AUTHZ]
        == {"@type": settings[EXT_AUTHZ]["@type"], "disabled": True}
    )


def test_a_filter_that_sends_all_headers_never_sends_those_of_the_check() -> None:
    given = shipped()
    del http_filters(given)[EXT_AUTHZ]["allowed_headers"]
    http = http_filters(ask_over_http(given, "ratelimitd")[0])[OVER_HTTP]
    assert http["allowed_headers"] == {"patterns": [{"safe_regex": {"regex": ".*"}}]}
    refused = {pattern["exact"] for pattern in http["disallowed_headers"]["patterns"]}
    assert {"x-ratelimitd-hop-context", "x-ratelimitd-hop-path", "x-ratelimitd-hop-peer"} < refused
    assert {"upgrade", "connection", "transfer-encoding", "traceparent"} < refused


def with_body(config: Config) -> None:
    http_filters(config)[EXT_AUTHZ]["with_request_body"] = {"max_request_bytes": 100}


def in_camel_case(config: Config) -> None:
    http_filters(config)[EXT_AUTHZ]["shadowMode"] = True


def with_routes_from_elsewhere(config: Config) -> None:
    del connection_manager(config)["route_config"]


def with_a_matcher(config: Config) -> None:
    virtual_host(config)["matcher"] = {}


def with_a_weighted_context(config: Config) -> None:
    cluster = {
        "name": "backend",
        "weight": 1,
        "typed_per_filter_config": per_route(context_extensions={"a": "b"}),
    }
    virtual_host(config)["routes"][0]["route"] = {"weighted_clusters": {"clusters": [cluster]}}


def with_another_service_for_a_route(config: Config) -> None:
    virtual_host(config)["typed_per_filter_config"] = per_route(grpc_service={})


def with_another_cluster(config: Config) -> None:
    http_filters(config)[EXT_AUTHZ]["grpc_service"]["envoy_grpc"]["cluster_name"] = "other"


def with_a_strange_timeout(config: Config) -> None:
    http_filters(config)[EXT_AUTHZ]["grpc_service"]["timeout"] = "soon"


def with_headers_as_text(config: Config) -> None:
    del http_filters(config)[EXT_AUTHZ]["encode_raw_headers"]


def with_hosts_from_elsewhere(config: Config) -> None:
    connection_manager(config)["route_config"]["vhds"] = {}


def with_routes_in_camel_case(config: Config) -> None:
    route = virtual_host(config)["routes"][0]
    route["typedPerFilterConfig"] = route.pop("typed_per_filter_config")


def with_two_filters(config: Config) -> None:
    filters = connection_manager(config)["http_filters"]
    (ours,) = (one for one in filters if one["name"] == EXT_AUTHZ)
    filters.insert(0, ours | {"name": "first"})


def with_connect(config: Config) -> None:
    upgrade = {"upgrade_type": "connect", "connect_config": {}}
    virtual_host(config)["routes"][0]["route"]["upgrade_configs"] = [upgrade]


def with_a_cluster_of_that_name(config: Config) -> None:
    clusters = config["static_resources"]["clusters"]
    clusters.append(clusters[0] | {"name": "ratelimitd.hop"})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (with_body, f"the filter {EXT_AUTHZ!r} sets with_request_body"),
        (in_camel_case, f"the filter {EXT_AUTHZ!r} sets shadowMode"),
        (with_routes_from_elsewhere, "the routes are not part of the configuration (route_config)"),
        (with_a_matcher, "the virtual host 'all' has a matcher instead of routes"),
        (with_a_weighted_context, "a weighted cluster has context_extensions"),
        (with_another_service_for_a_route, f"a route sets grpc_service for the filter {EXT_AUTHZ!r}"),
        (with_another_cluster, "no ext_authz filter of a static listener calls the cluster 'ratelimitd'"),
        (with_a_strange_timeout, "the timeout of an ext_authz filter is 'soon'; expected e.g. 0.25s"),
        (with_headers_as_text, f"the filter {EXT_AUTHZ!r} does not set encode_raw_headers: true"),
        (with_hosts_from_elsewhere, "the routes are not part of the configuration (route_config)"),
        (with_routes_in_camel_case, "the field typedPerFilterConfig is in camel case"),
        (with_a_cluster_of_that_name, "a cluster named ratelimitd.hop exists already"),
        (with_connect, "clients may use connect (upgrade_configs)"),
        (with_two_filters, "two ext_authz filters in a row call the cluster 'ratelimitd'"),
    ],
)
def test_what_http_cannot_carry_is_named(change: Callable[[Config], None], problem: str) -> None:
    given = shipped()
    change(given)
    with pytest.raises(FrontConfigError) as raised:
        ask_over_http(given, "ratelimitd")
    assert problem in str(raised.value)

"""Which metadata of decisions an Envoy can read."""

from typing import Any

import pytest
import yaml

from ratelimitd.resources import resource
from ratelimitd.transport.fast.metadata_readers import KEYS, metadata_read

NAMESPACE = "envoy.filters.http.ext_authz"


def extension(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}


def test_the_access_log_of_the_shipped_configuration_reads_all() -> None:
    shipped = yaml.safe_load(resource("envoy/envoy.yaml").read_text())
    assert set(metadata_read(shipped)) == set(KEYS)


def test_formats_read_what_they_name() -> None:
    formats = [
        f"%DYNAMIC_METADATA({NAMESPACE}:tier)% %DYNAMIC_METADATA({NAMESPACE}:outcome:x):5% %REQ(:path)%"
    ]
    assert metadata_read({"a": {"b": formats}}) == ("outcome", "tier")
    assert metadata_read({"a": "%DYNAMIC_METADATA(other:outcome)%"}) == ()


@pytest.mark.parametrize(
    "config",
    [
        f"%DYNAMIC_METADATA({NAMESPACE})%",
        "%CEL(metadata.filter_metadata)%",
        {"filter": NAMESPACE, "path": []},
        extension("filters.http.lua.v3.Lua"),
        extension("access_loggers.grpc.v3.HttpGrpcAccessLogConfig"),
        {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct"},
    ],
)
def test_what_may_read_all_metadata_counts_as_a_reader_of_all(config: Any) -> None:
    assert metadata_read({"typed_config": [config]}) == KEYS


def test_a_filter_and_its_name_read_nothing() -> None:
    filters = [{"name": NAMESPACE, "typed_config": extension("filters.http.ext_authz.v3.ExtAuthz")}]
    routes = {"typed_per_filter_config": {NAMESPACE: extension("filters.http.ext_authz.v3.ExtAuthzPerRoute")}}
    assert metadata_read([filters, routes]) == ()

"""An HTTP filter that answers calls whose path pyvoy cannot decode.

pyvoy 1.3 decodes the escapes of a path, and the result as UTF-8, before it calls the application. If that
fails, it raises, and the call never gets a response. Paths of gRPC methods need neither escapes nor bytes
above 0x7E, so Envoy answers all calls whose path has one. The query may have escapes.
"""

from typing import Any

_DECODABLE = r"[!-$&->@-~]*(\?[!-~]*)?"
"""Matches the printable ASCII characters without %, and any of them after a question mark."""

_RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"


def path_filter() -> dict[str, Any]:
    """Returns the filter, which precedes the one of pyvoy. It refuses calls with HTTP status 403."""
    path = {"name": ":path", "string_match": {"safe_regex": {"regex": _DECODABLE}}}
    decodable = {"permissions": [{"header": path}], "principals": [{"any": True}]}
    rules = {"action": "ALLOW", "policies": {"decodable": decodable}}
    return {"name": "envoy.filters.http.rbac", "typed_config": {"@type": _RBAC, "rules": rules}}


def refusal() -> dict[str, Any]:
    """Returns the `local_reply_config` that turns the filter's response into UNIMPLEMENTED."""
    forbidden = {"op": "EQ", "value": {"default_value": 403, "runtime_key": "ratelimitd.path_filter"}}
    mapper = {
        "filter": {"status_code_filter": {"comparison": forbidden}},
        "status_code": 404,  # Envoy turns it into UNIMPLEMENTED
        "body": {"inline_string": "unknown method"},
    }
    return {"mappers": [mapper]}

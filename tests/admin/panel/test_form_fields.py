"""Reading the panel's forms."""

from ratelimitd.admin.panel.form_fields import request_spec


def test_repeated_headers_are_joined_in_the_order_of_their_lines() -> None:
    spec = request_spec({"path": "/", "headers": "X-A: 1\nx-a: 2\nX-A: 3\nx-b: 4"})
    assert spec.headers == {"x-a": "1,2,3", "x-b": "4"}


def test_the_case_of_a_context_key_is_kept() -> None:
    spec = request_spec({"path": "/", "context": "API = /a\napi=/b\napi=/c"})
    assert spec.context == {"API": "/a", "api": "/c"}

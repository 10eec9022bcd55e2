"""Requests with which the two ways to ask the service inside an Envoy are compared."""

from typing import Any

from tests.system.test_unusual_requests import REQUESTS, request, upgrade

PROBE = "/api/ready"
"""The path of requests that are not compared."""

POLICY = """\
tiers:
  global: {capacity: 1000000, refill_rate: 0.000001}
  user: {capacity: 5, refill_rate: 0.000001}
  user_api: {capacity: 2, refill_rate: 0.000001}
routes:
  - {path: /api/allow, on_store_error: allow}
  - {path: /api/envoy, on_store_error: envoy}
  - {path: /api/local, on_store_error: local}
  - {path: /api/status, exempt: true}
  - {path: /api/quoted, api: '"quoted";é\\'}
overrides:
  users:
    mallory: {blocked: true}
    root: {exempt: true}
    'k"äthe': {shadow: true}
"""

HOSTILE = [
    f"{name}: {value}"
    for name, value in (
        ("x-ratelimitd-hop-path", "/other"),
        ("x-ratelimitd-hop-peer", "203.0.113.9"),
        ("x-ratelimitd-hop-context", '{"api":"/other"}'),
        ("x-ratelimitd-hop-full", "true"),
        ("x-ratelimitd-hop-remaining", "7"),
        ("hand-over", "0"),
        ("outcome", "allowed"),
        ("remaining", "1000"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-envoy-expected-rq-timeout-ms", "1"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-max-retries", "3"),
    )
]


def request_of(*header_lines: str, line: str = "GET /api/x HTTP/1.1", body: str = "") -> bytes:
    """Returns a request without the id of user1."""
    return "\r\n".join([line, "Host: test", *header_lines, "Connection: close", "", body]).encode("latin-1")


LARGE = "x" * 1_000_000

MORE = {
    "hostile headers": request("GET /api/x?q=1 HTTP/1.1", *HOSTILE),
    "hostile headers on a route without context": request("GET /plain HTTP/1.1", *HOSTILE),
    "two ids": request("GET /api/x HTTP/1.1", "X-User-Id: user2"),
    "id of bytes that are not UTF-8": request_of("X-User-Id: a\xff\xfe"),
    "id in UTF-8": request_of("X-User-Id: k\xc3\xa4the"),
    "user in shadow, whose name has a quote and a letter outside ASCII": request_of(
        'X-User-Id: k"\xc3\xa4the'
    ),
    "API whose name has quotes, a backslash and a letter outside ASCII": request("GET /api/quoted HTTP/1.1"),
    "empty id": request_of("X-User-Id: "),
    "no id": request_of("X-Forwarded-For: 203.0.113.9"),
    "gRPC": request("POST /api/x HTTP/1.1", "Content-Type: application/grpc", "Content-Length: 0"),
    "context of the route": request("GET /api/own/x HTTP/1.1"),
    "path that is not UTF-8": request("GET /api/%ff%fe HTTP/1.1"),
    "blocked": request_of("X-User-Id: mallory"),
    "blocked HEAD": request_of("X-User-Id: mallory", line="HEAD /api/x HTTP/1.1"),
    "exempt": request_of("X-User-Id: root"),
    "unchecked": request("GET /health HTTP/1.1"),
    "disabled for the route": request("GET /free/x HTTP/1.1", *HOSTILE),
    "WebSocket": upgrade("websocket"),
    "as many headers as Envoy accepts": request("GET /api/x HTTP/1.1", *(f"A{n}: 1" for n in range(97))),
    "one header less": request("GET /api/x HTTP/1.1", *(f"A{n}: 1" for n in range(96))),
    "nearly 60 KiB of headers": request("GET /api/x HTTP/1.1", f"A: {'x' * 61_180}"),
    "a few bytes less": request("GET /api/x HTTP/1.1", f"A: {'x' * 61_080}"),
    "body of 1 MB": request("POST /direct HTTP/1.1", f"Content-Length: {len(LARGE)}", body=LARGE),
    "blocked, with a chunked body": request_of(
        *("X-User-Id: mallory", "Transfer-Encoding: chunked"),
        line="POST /api/x HTTP/1.1",
        body="2\r\nhi\r\n0\r\n\r\n",
    ),
}
ALL = {name: data for name, (data, _, _, forwarded) in REQUESTS.items() if forwarded == 1} | MORE
"""Requests that reach the check, by name. Each has the id `user1`, or an id that no other request has."""

OVER_HTTP2: dict[str, dict[str, Any]] = {
    "path with brackets and a pipe": {"path": "/api/[{|}]"},
    "path with quotes": {"path": '/api/"x"'},
    "path with bytes outside ASCII": {"path": b"/api/\xc3\xa9\xff"},
    "path with a space": {"path": "/api/a b"},
    "path with a tab": {"path": b"/api/a\tb"},
    "no slash at the beginning": {"path": "api/x"},
    "query with escapes": {"path": "/api/x?a=%ff&b=%00"},
    "id with bytes outside ASCII": {"path": "/api/x", "x_user_id": b"\xff\xfe"},
    "id with a line feed": {"path": "/api/x", "x_user_id": b"a\nb"},
    "id with a zero byte": {"path": "/api/x", "x_user_id": b"a\x00b"},
    "id with spaces around it": {"path": "/api/x", "x_user_id": b" a "},
    "HEAD": {"path": "/api/x", "method": "HEAD"},
    "method with a space": {"path": "/api/x", "method": "G T"},
    "method that looks like a line": {"path": "/api/x", "method": "GET /9 HTTP/1.1"},
    "method in lower case": {"path": "/api/x", "method": "get"},
    "method with a colon": {"path": "/api/x", "method": "a: b"},
    "hostile": {"path": "/api/x", "x_ratelimitd_hop_path": "/other", "hand_over": "0"},
    "gRPC": {"path": "/api/x", "content_type": "application/grpc", "method": "POST"},
}
"""Requests over HTTP/2, by name."""

AWAY = [
    request(f"{method} /api/{route} HTTP/1.1", *headers)
    for route in ("deny", "allow", "envoy", "local", "status")
    for method, headers in (
        ("GET", HOSTILE[5:7]),
        ("HEAD", ()),
        ("POST", ("Content-Type: application/grpc", "Content-Length: 0")),
    )
]
"""Requests while the store cannot decide."""

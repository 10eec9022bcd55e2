"""Messages over HTTP/1.1: checks as other proxies send them, and requests that few clients send.

Each function returns the bytes of one message. The same random numbers give the same bytes.
"""

from collections.abc import Callable
from random import Random

from fuzz.calls import IN_HEADERS, IN_QUERY, USERS, text
from fuzz.mutation import mutated

Http1Message = Callable[[Random], bytes]
"""Makes a message."""


def _head(random: Random, line: bytes = b"", *more: bytes) -> bytes:
    """Returns the head of a check with some of these lines, and with other values of some headers."""
    query = random.choice(
        (b"", b"?api=/api/*", b"?denied_status=403&metadata=true", b"?" + text(random, IN_QUERY))
    )
    method = random.choice((b"GET", b"HEAD", b"POST", b"OPTIONS", b"DELETE"))
    lines = [
        b"X-User-Id: fuzz-%d" % random.randrange(USERS),
        b"X-Forwarded-Uri: " + random.choice((b"/api/1?q=1", b"http://a/b", text(random, IN_HEADERS))),
        b"X-Forwarded-Method: " + random.choice((b"GET", text(random, IN_HEADERS))),
        b"X-Forwarded-For: " + random.choice((b"2001:db8::1, 192.0.2.1", text(random, IN_HEADERS))),
        b"Content-Type: " + random.choice((b"application/grpc", b"text/plain")),
        b"Expect: 100-continue",
    ]
    some = random.choices(lines, k=random.randint(1, 6))
    first = line or method + b" /check" + query + b" HTTP/1.1"
    return b"\r\n".join((first, b"Host: ratelimitd", *some, *more, b"", b""))


def http1_check(random: Random) -> bytes:
    """Returns a check that leaves the connection open, often with a body."""
    body = text(random, IN_HEADERS)
    sized = _head(random, b"", b"Content-Length: %d" % len(body)) + body
    chunked = _head(random, b"", b"Transfer-Encoding: chunked") + b"%x;a=b\r\n%b\r\n0\r\nA: b\r\n\r\n" % (
        len(body),
        body,
    )
    return random.choice((_head(random), sized, chunked))


def http1_framing(random: Random) -> bytes:
    """Returns a check with a body whose length two servers could read differently."""
    lines = random.choice(
        (
            (b"Content-Length: 4", b"Transfer-Encoding: chunked"),
            (b"Content-Length: 0", b"Content-Length: 44"),
            (random.choice((b"Content-Length: +4", b"Content-Length: 4, 4", b"Content-Length: 0x4")),),
            (random.choice((b"Transfer-Encoding: xchunked", b"Transfer-Encoding : chunked")),),
            (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
            (b"Transfer-Encoding: chunked",),
            (b"Content-Length: 99999999999999999999",),
        )
    )
    size = random.choice((b"zz", b"-1", b"f" * 20, b"0", b"4;" + text(random, IN_QUERY), b"5"))
    return _head(random, b"", *lines) + size + b"\r\nbody\r\n0\r\n\r\n" + _head(random)


def http1_target(random: Random) -> bytes:
    """Returns a check with another target, version or method, or one that asks for another protocol."""
    line = random.choice(
        (
            b"GET http://a/check HTTP/1.1",
            b"GET //check HTTP/1.1",
            b"GET /%63heck?" + text(random, IN_QUERY) + b" HTTP/1.1",
            b"GET /check?#" + text(random, IN_QUERY) + b" HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"CONNECT a:1 HTTP/1.1",
            b"TRACE /check HTTP/1.1",
            b"get /check HTTP/1.1",
            b"GET /check HTTP/" + random.choice((b"0.9", b"1.0", b"2.0", b"1.1 ")),
            b"PRI * HTTP/2.0",
        )
    )
    upgrade = (
        b"Connection: upgrade, x-user-id",
        b"Upgrade: " + random.choice((b"websocket", b"h2c", b"TLS/1.2")),
    )
    return random.choice((_head(random, line), _head(random, b"", *upgrade)))


def http1_bytes(random: Random) -> bytes:
    """Returns a check with mutated bytes, with line ends or headers as few clients send them, or cut."""
    head = _head(random)
    return random.choice(
        (
            mutated(head, random),
            head.replace(b"\r\n", random.choice((b"\n", b"\r", b"\r\n ", b"\r\n\r\n"))),
            head[: random.randrange(len(head))],
            _head(random, b"", *(b"a-%d: 1" % number for number in range(120))),
            _head(random, b"", b"A: " + b"x" * 70_000),
            random.randbytes(300),
        )
    )


HTTP1_ENDINGS: tuple[Http1Message, ...] = (http1_framing, http1_target, http1_bytes)

"""Parses the URL of a store at start-up, before anything connects.

redis-py ignores what it does not understand, such as a database that is not a number, and would then use
another database than the one that the operator meant. Here every part is valid or the URL is refused. No
error shows a part that may belong to the password.
"""

import ipaddress
import re
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from redis.asyncio import SSLConnection

from ratelimitd.store_options import OPTIONS, TLS_OPTIONS, check_tls_options, database

Scheme = Literal["redis", "rediss", "unix"]

SCHEMES: dict[str, Scheme] = {"redis://": "redis", "rediss://": "rediss", "unix://": "unix"}
"""Schemes by the prefix of a store URL: TCP, TLS, Unix socket."""

DEFAULT_PORT = 6379
MAX_PORT = 65535
MAX_LABEL = 63
"""Characters between two dots of a host name: RFC 1035."""

MAX_SOCKET_PATH_BYTES = 107
"""The size of `sun_path` on Linux, without its final zero byte."""

_TCP_FORM = "SCHEME://HOST:PORT/DB or SCHEME://USER:PASSWORD@HOST:PORT/DB"
_UNIX_FORM = "unix:///PATH or unix://USER:PASSWORD@/PATH"
_ENCODING = "percent-encode / @ : ? # and % in USER and PASSWORD"
_TLS_FILES = (
    "expected PEM files: certificates in ssl_ca_certs, the client's certificate in ssl_certfile, its private "
    "key in ssl_keyfile or in the same file, and in ssl_password the password of the key if it has one"
)

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


class StoreUrl(NamedTuple):
    """A valid store URL: its scheme, and the arguments of redis-py's connection."""

    scheme: Scheme
    arguments: dict[str, Any]


def parse_store_url(url: str) -> StoreUrl:
    """Returns the parts of a store URL. Raises ValueError with a sentence that never shows the password."""
    prefix = next((known for known in SCHEMES if url[: len(known)].lower() == known), None)
    if prefix is None:
        raise ValueError(f"must begin with {', '.join(SCHEMES)}, or be `embedded`")
    try:
        return _parse(SCHEMES[prefix], url[len(prefix) :])
    except ValueError as error:
        raise ValueError(f"not a valid store URL: {error}") from error


def check_store_url(url: str) -> None:
    """Raises ValueError, with a sentence, for a URL that cannot be used. It also loads the files for TLS."""
    scheme, arguments = parse_store_url(url)
    if scheme != "rediss":
        return
    try:
        SSLConnection(**arguments).ssl_context.get()
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        raise ValueError(
            f"not a valid store URL: its TLS files cannot be used: {error}; {_TLS_FILES}"
        ) from error


def _parse(scheme: Scheme, rest: str) -> StoreUrl:
    if re.search(r"[\s\x00-\x1f\x7f]", rest):
        raise ValueError("it contains white space or control characters; percent-encode them")
    before_query, _, query = rest.partition("?")
    authority, slash, path = before_query.partition("/")
    # A password with one of these characters ends its part of the URL too early.
    if "#" in rest or "@" in path or "@" in query or "?" in query:
        raise ValueError(
            f"it has a #, a second ?, or an @ after the host; {_ENCODING}, and # ? @ in paths and options"
        )
    userinfo, at, server = authority.rpartition("@")
    arguments = _credentials(userinfo) if at else {}
    if scheme == "unix":
        arguments |= _socket(server, slash + path)
    else:
        arguments |= _server(server) | ({"db": _path_database(path)} if path else {})
    options = _options(query, scheme)
    if "db" in arguments and "db" in options:
        raise ValueError("it names a database twice; expected either /DB or ?db=DB")
    if scheme == "rediss":
        check_tls_options(options)
        options.setdefault("ssl_password", "")  # with None, OpenSSL would ask for it on the terminal
    return StoreUrl(scheme, arguments | options)


def _decoded(text: str, what: str) -> str:
    """Returns percent-decoded text. Raises ValueError without showing the text."""
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"a % in {what} needs two hexadecimal digits after it; write %25 for a %")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} has percent-encoded bytes that are not UTF-8") from error


def _credentials(userinfo: str) -> dict[str, Any]:
    user, colon, password = userinfo.partition(":")
    if not colon:
        raise ValueError(
            "it has a user but no password; expected USER:PASSWORD@HOST, :PASSWORD@HOST for a password "
            "alone, or USER:@HOST for a user without a password"
        )
    if not user and not password:
        raise ValueError("user and password are empty; expected USER:PASSWORD@HOST, or HOST without @")
    username = {"username": _decoded(user, "the user")} if user else {}
    return username | {"password": _decoded(password, "the password")}


def _server(authority: str) -> dict[str, Any]:
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::([^:]*))?", authority)
    if match is None:
        raise ValueError(f"expected {_TCP_FORM}, with brackets around an IPv6 address; {_ENCODING}")
    host, port = match[1], match[2]
    if not host:
        raise ValueError(f"it names no host; expected {_TCP_FORM}")
    if port is not None and (not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= MAX_PORT):
        raise ValueError(f"PORT must be 1 to {MAX_PORT}; expected {_TCP_FORM}; {_ENCODING}")
    return {"host": _host(host), "port": int(port) if port else DEFAULT_PORT}


def _host(text: str) -> str:
    """Returns a host name or an address without brackets. Raises ValueError."""
    if text.startswith("["):
        try:
            # RFC 6874 writes the % before the zone of a link-local address as %25.
            return str(ipaddress.IPv6Address(text[1:-1].replace("%25", "%")))
        except ValueError as error:
            raise ValueError("an IPv6 address is expected between [ and ]") from error
    if not _HOST.fullmatch(text) or ".." in text or any(len(label) > MAX_LABEL for label in text.split(".")):
        raise ValueError(f"HOST must be a name or an address; expected {_TCP_FORM}; {_ENCODING}")
    return text


def _socket(authority: str, path: str) -> dict[str, Any]:
    if authority or not path.strip("/"):
        raise ValueError(f"the path of a socket is missing, or a host comes before it; expected {_UNIX_FORM}")
    decoded = _decoded(path, "the path of the socket")
    if len(decoded.encode()) > MAX_SOCKET_PATH_BYTES or "\0" in decoded:
        raise ValueError(f"the path of a socket has at most {MAX_SOCKET_PATH_BYTES} bytes, none of them zero")
    return {"path": decoded}


def _path_database(path: str) -> int:
    try:
        return database(path)
    except ValueError as error:
        raise ValueError(
            f"the path {'/' + path!r} names no database: DB {error}, as in redis://HOST:PORT/0"
        ) from error


def _options(query: str, scheme: Scheme) -> dict[str, Any]:
    """Returns the options of a URL by name."""
    known = OPTIONS | TLS_OPTIONS if scheme == "rediss" else OPTIONS
    found: dict[str, Any] = {}
    for pair in query.split("&") if query else ():
        raw_name, equals, raw_value = pair.partition("=")
        name = _decoded(raw_name, "the name of an option")
        option = known.get(name)
        if option is None:
            reason = "needs rediss://" if name in TLS_OPTIONS else "is not allowed"
            raise ValueError(f"the option {name!r} {reason}; allowed are {', '.join(known)}")
        if not equals or not raw_value or name in found:
            raise ValueError(f"the option {name} must occur once, as {name}=VALUE")
        value = _decoded(raw_value, f"the option {name}")
        try:
            found[name] = option.parse(value)
        except ValueError as error:
            shown = "" if option.secret else f" is {value!r} but"
            raise ValueError(f"the option {name}{shown} {error}") from error
    return found

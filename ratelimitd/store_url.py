"""Parses the URL of a store at start-up, before anything connects.

    redis://HOST:PORT/DB                              one server
    unix:///PATH                                      one server at a socket
    redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB   the master that Sentinels watch as SERVICE
    redis+cluster://HOST:PORT,HOST:PORT               a Redis Cluster

`rediss` in place of `redis` means TLS.

redis-py ignores what it does not understand, such as a database that is not a number, and would then use
another database than the one that the operator meant. Here every part is valid or the URL is refused. No
error shows a part that may belong to the password.
"""

import ipaddress
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from ratelimitd.store_options import (
    OPTIONS,
    SENTINEL_OPTIONS,
    TLS_OPTIONS,
    check_sentinel_options,
    check_tls_options,
    database,
)

Scheme = Literal["redis", "rediss", "unix"]
"""How each server is reached: TCP, TLS, Unix socket."""

Topology = Literal["single", "sentinel", "cluster"]
"""How the servers of a store belong together."""

SCHEMES: dict[str, tuple[Scheme, Topology]] = {
    "redis://": ("redis", "single"),
    "rediss://": ("rediss", "single"),
    "unix://": ("unix", "single"),
    "redis+sentinel://": ("redis", "sentinel"),
    "rediss+sentinel://": ("rediss", "sentinel"),
    "redis+cluster://": ("redis", "cluster"),
    "rediss+cluster://": ("rediss", "cluster"),
}
"""What the prefix of a store URL stands for."""

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
MAX_PORT = 65535
MAX_LABEL = 63
"""Characters between two dots of a host name: RFC 1035."""

MAX_SOCKET_PATH_BYTES = 107
"""The size of `sun_path` on Linux, without its final zero byte."""

_TCP_FORM = "SCHEME://HOST:PORT/DB or SCHEME://USER:PASSWORD@HOST:PORT/DB"
_SENTINEL_FORM = "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or .../SERVICE/DB"
_CLUSTER_FORM = "redis+cluster://HOST:PORT,HOST:PORT"
_UNIX_FORM = "unix:///PATH or unix://USER:PASSWORD@/PATH"
_ENCODING = "percent-encode / @ : ? # and % in USER and PASSWORD"
_SERVICE = re.compile(r"[A-Za-z0-9_.-]+")
"""Names that Sentinel accepts for a master that it watches."""

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


class Node(NamedTuple):
    """The address of a server: a name or an address without brackets, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class StoreUrl(NamedTuple):
    """A valid store URL.

    Args:
        scheme: how each server is reached.
        arguments: arguments of redis-py's connections. `host` and `port` are those of the first node.
        topology: how the servers belong together.
        nodes: the servers of the URL, which for `sentinel` are the Sentinels; none for a socket.
        service: the name of the master that the Sentinels watch; empty for other topologies.
        sentinel: the options of SENTINEL_OPTIONS that the URL has.
    """

    scheme: Scheme
    arguments: dict[str, Any]
    topology: Topology = "single"
    nodes: tuple[Node, ...] = ()
    service: str = ""
    sentinel: Mapping[str, Any] = MappingProxyType({})


def parse_store_url(url: str) -> StoreUrl:
    """Returns the parts of a store URL. Raises ValueError with a sentence that never shows the password."""
    prefix = next((known for known in SCHEMES if url[: len(known)].lower() == known), None)
    if prefix is None:
        raise ValueError(f"must begin with {', '.join(SCHEMES)}, or be `embedded`")
    try:
        return _parse(*SCHEMES[prefix], url[len(prefix) :])
    except ValueError as error:
        raise ValueError(f"not a valid store URL: {error}") from error


def _parse(scheme: Scheme, topology: Topology, rest: str) -> StoreUrl:
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
    nodes: tuple[Node, ...] = ()
    service = ""
    if scheme == "unix":
        arguments |= _socket(server, slash + path)
    else:
        nodes = _nodes(server, topology)
        if topology == "sentinel":
            service, _, path = path.partition("/")
            _check_service(service)
        arguments |= nodes[0]._asdict() | ({"db": _path_database(path)} if path else {})
    options = _options(query, scheme, topology)
    if topology == "cluster" and (arguments.get("db") or options.get("db")):
        raise ValueError(f"a Redis Cluster has only the database 0; expected {_CLUSTER_FORM}")
    if "db" in arguments and "db" in options:
        raise ValueError("it names a database twice; expected either /DB or ?db=DB")
    if scheme == "rediss":
        check_tls_options(options)
        options.setdefault("ssl_password", "")  # with None, OpenSSL would ask for it on the terminal
    sentinel = {name: options.pop(name) for name in SENTINEL_OPTIONS if name in options}
    check_sentinel_options(sentinel, tls=scheme == "rediss")
    return StoreUrl(scheme, arguments | options, topology, nodes, service, sentinel)


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


def _nodes(servers: str, topology: Topology) -> tuple[Node, ...]:
    if topology == "single":
        return (_node(servers, _TCP_FORM, DEFAULT_PORT),)
    form, port = (
        (_SENTINEL_FORM, DEFAULT_SENTINEL_PORT) if topology == "sentinel" else (_CLUSTER_FORM, DEFAULT_PORT)
    )
    return tuple(_node(server, form, port) for server in servers.split(","))


def _check_service(name: str) -> None:
    if not _SERVICE.fullmatch(name):
        raise ValueError(
            f"it does not name the service, the master that the Sentinels watch; expected {_SENTINEL_FORM}"
        )


def _node(authority: str, form: str, default_port: int) -> Node:
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::([^:]*))?", authority)
    if match is None:
        raise ValueError(f"expected {form}, with brackets around an IPv6 address; {_ENCODING}")
    host, port = match[1], match[2]
    if not host:
        raise ValueError(f"it names no host; expected {form}")
    if port is not None and (not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= MAX_PORT):
        raise ValueError(f"PORT must be 1 to {MAX_PORT}; expected {form}; {_ENCODING}")
    return Node(_host(host, form), int(port) if port else default_port)


def _host(text: str, form: str) -> str:
    """Returns a host name or an address without brackets. Raises ValueError."""
    if text.startswith("["):
        try:
            # RFC 6874 writes the % before the zone of a link-local address as %25.
            return str(ipaddress.IPv6Address(text[1:-1].replace("%25", "%")))
        except ValueError as error:
            raise ValueError("an IPv6 address is expected between [ and ]") from error
    if not _HOST.fullmatch(text) or ".." in text or any(len(label) > MAX_LABEL for label in text.split(".")):
        raise ValueError(f"HOST must be a name or an address; expected {form}; {_ENCODING}")
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


def _options(query: str, scheme: Scheme, topology: Topology) -> dict[str, Any]:
    """Returns the options of a URL by name."""
    known = OPTIONS | (TLS_OPTIONS if scheme == "rediss" else {})
    known |= SENTINEL_OPTIONS if topology == "sentinel" else {}
    found: dict[str, Any] = {}
    for pair in query.split("&") if query else ():
        raw_name, equals, raw_value = pair.partition("=")
        name = _decoded(raw_name, "the name of an option")
        option = known.get(name)
        if option is None:
            reason = (
                "needs rediss://"
                if name in TLS_OPTIONS
                else "needs redis+sentinel://"
                if name in SENTINEL_OPTIONS
                else "is not allowed"
            )
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

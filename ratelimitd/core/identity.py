"""Identify the user or address behind a request. No request can name the bucket of another.

A key is either a plain one, in which every byte outside RFC 3986's unreserved set is percent-encoded, or it
holds an `=`, which encoding never leaves in a plain one: `ip=...` for an address, `sha256=...` for a long
value, `=anonymous` for requests without an identity. So no two sources
share a key, and no value can forge another's.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, unquote

from ratelimitd.core.client_address import PORT_WITHOUT_BRACKETS, charged_as, plain_address, read_address
from ratelimitd.core.model import Identity, Request, new

Source = Callable[[Request], Identity | None]
"""Identifies a request, or returns None, so that the next source is tried."""

MAX_ADDRESS = 256
"""Longest value of an address header that is read, in characters; Forwarded holds more than the address."""

MAX_CLIENT_KEYS = 4096
"""Addresses whose keys are kept, about 1 MB: building a key takes 5 us for IPv4 and 16 us for IPv6."""

Unreadable = Callable[[str | None], None]
"""Called with a value of the address header that is not an address, and with None for a missing header."""

MAX_PLAIN_KEY = 128
"""Longest plain key, in characters: a longer one is replaced by its hash, so memory stays bounded."""

ANONYMOUS = Identity("anonymous", "=anonymous")
"""The identity of every request that no source can identify: they share one bucket."""

_ADDRESS, _HASHED = "ip=", "sha256="

_HASHED_KEY = re.compile(_HASHED + "[0-9a-f]{64}")

HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
"""RFC 9110 section 5.6.2, `token`, in lower case."""


def ignore_unreadable(_value: str | None) -> None:
    """Does nothing."""


def plain_key(value: str) -> str:
    """The key of a name. Bytes that were not UTF-8 keep their identity: `%FF` is not `%FE`."""
    # Most names are plain already, and these two checks take less time than quote.
    key = value if value.isalnum() and value.isascii() else quote(value, safe="", errors="surrogateescape")
    if len(key) <= MAX_PLAIN_KEY:
        return key
    return _HASHED + hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()


def address_key(text: str) -> str | None:
    """The key of a plain IP address, or None when `text` is not one."""
    address = plain_address(text.strip())
    return None if address is None else _key_of(address)


def client_key(text: str, *, ends_in_port: bool = False) -> str | None:
    """The key of an address as a proxy writes it, or None when `text` holds none."""
    address = read_address(text, ends_in_port=ends_in_port) if len(text) <= MAX_ADDRESS else None
    return None if address is None else _key_of(address)


def _key_of(address: IPv4Address | IPv6Address) -> str:
    charged = charged_as(address)
    return _ADDRESS + (quote(charged, safe="") if ":" in charged else charged)


def identity_of_key(key: str) -> Identity | None:
    """The identity that has this key, or None when no identity can have it."""
    if key == ANONYMOUS.key:
        return ANONYMOUS
    if key.startswith(_ADDRESS):
        address, _, _ = unquote(key.removeprefix(_ADDRESS)).partition("/")
        return Identity("address", key) if address_key(address) == key else None
    if _HASHED_KEY.fullmatch(key) or (0 < len(key) <= MAX_PLAIN_KEY and plain_key(value_of_key(key)) == key):
        return Identity("header", key)
    return None


def value_of_key(key: str) -> str:
    """The value that a plain key names; bytes that were not UTF-8 are surrogate escapes."""
    return unquote(key, errors="surrogateescape")


def name_of_key(key: str) -> str:
    """The user, address or network that has this key, as people read it; `anonymous` for ANONYMOUS.

    Bytes that were not UTF-8 are U+FFFD. The name of a user with a hashed key is not known: it is the key.
    """
    if key == ANONYMOUS.key:
        return ANONYMOUS.kind
    return unquote(key.removeprefix(_ADDRESS))


def header_source(name: str) -> Source:
    """Identifies by a request header. A value with a comma is ignored: it may be two headers joined."""

    def identify_by_header(request: Request) -> Identity | None:
        value = request.headers.get(name, "").strip(" \t")
        if not value or "," in value:
            return None
        return new(Identity, ("header", plain_key(value)))

    return identify_by_header


def address_source(trusted_header: str | None, on_unreadable: Unreadable = ignore_unreadable) -> Source:
    """Identifies by the client's address: from a header that Envoy itself overwrites, else the peer's."""
    key_of = _kept_keys(client_key)
    ends_in_port = trusted_header in PORT_WITHOUT_BRACKETS
    key_of_value = _kept_keys(partial(client_key, ends_in_port=True)) if ends_in_port else key_of

    def identify_by_address(request: Request) -> Identity | None:
        key = None
        if trusted_header is not None:
            value = request.headers.get(trusted_header)
            key = None if value is None else key_of_value(value)
            if key is None:
                on_unreadable(value)
        key = key or key_of(request.peer_address)
        return None if key is None else Identity("address", key)

    return identify_by_address


def _kept_keys(key_of: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """Returns `key_of` with a cache. A text longer than MAX_ADDRESS has no key."""
    cached_key = lru_cache(MAX_CLIENT_KEYS)(key_of)
    return lambda text: cached_key(text) if len(text) <= MAX_ADDRESS else None


def parse_sources(
    text: str, trusted_header: str | None, on_unreadable: Unreadable = ignore_unreadable
) -> tuple[Source, ...]:
    """Sources from a list such as `header:x-user-id,address`. Raises ValueError with a sentence.

    Args:
        text: the list.
        trusted_header: header with the client's address, or None for the peer's address.
        on_unreadable: called with the value of that header when it is not an address, with None when the
            header is missing.
    """
    sources = []
    for part in text.split(","):
        kind, _, name = part.strip().lower().partition(":")
        if kind == "header" and HEADER_NAME.fullmatch(name):
            sources.append(header_source(name))
        elif kind == "address" and not name:
            sources.append(address_source(trusted_header, on_unreadable))
        else:
            raise ValueError(
                f"{part.strip()!r} is not an identity source; use header:NAME or address, separated by commas"
            )
    return tuple(sources)


def identify(sources: Sequence[Source], request: Request) -> Identity:
    """The first identity that a source finds, else ANONYMOUS."""
    for source in sources:
        identity = source(request)
        if identity is not None:
            return identity
    return ANONYMOUS

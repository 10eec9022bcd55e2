"""Identify the user or address behind a request. No request can name the bucket of another.

A key is either a plain one, in which every byte outside RFC 3986's unreserved set is percent-encoded, or it
holds an `=`, which encoding never leaves in a plain one: `ip=...` for an address, `sha256=...` for a long
value, `=anonymous` for requests without an identity. So no two sources
share a key, and no value can forge another's.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable, Sequence
from urllib.parse import quote

from ratelimitd.core.model import Identity, Request

Source = Callable[[Request], Identity | None]
"""Identifies a request, or returns None, so that the next source is tried."""

MAX_PLAIN_KEY = 128
"""Longest plain key, in characters: a longer one is replaced by its hash, so memory stays bounded."""

ANONYMOUS = Identity("anonymous", "=anonymous")
"""The identity of every request that no source can identify: they share one bucket."""

HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
"""RFC 9110 section 5.6.2, `token`, in lower case."""


def plain_key(value: str) -> str:
    """The key of a name. Bytes that were not UTF-8 keep their identity: `%FF` is not `%FE`."""
    # Most names are plain already, and these two checks take less time than quote.
    key = value if value.isalnum() and value.isascii() else quote(value, safe="", errors="surrogateescape")
    if len(key) <= MAX_PLAIN_KEY:
        return key
    return "sha256=" + hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()


def address_key(text: str) -> str | None:
    """The key of an IP address, or None when `text` is not one. An IPv6 address counts as its /64."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            network = ipaddress.ip_network((int(address) >> 64 << 64, 64))
            return "ip=" + quote(str(network), safe="")
        address = address.ipv4_mapped
    return f"ip={address}"


def header_source(name: str) -> Source:
    """Identifies by a request header. A value with a comma is ignored: it may be two headers joined."""

    def identify_by_header(request: Request) -> Identity | None:
        value = request.headers.get(name, "").strip(" \t")
        if not value or "," in value:
            return None
        return Identity("header", plain_key(value))

    return identify_by_header


def address_source(trusted_header: str | None) -> Source:
    """Identifies by the client's address: from a header that Envoy itself overwrites, else the peer's."""

    def identify_by_address(request: Request) -> Identity | None:
        trusted = request.headers.get(trusted_header, "") if trusted_header else ""
        key = address_key(trusted) or address_key(request.peer_address)
        return None if key is None else Identity("address", key)

    return identify_by_address


def parse_sources(text: str, trusted_header: str | None) -> tuple[Source, ...]:
    """Sources from a list such as `header:x-user-id,address`. Raises ValueError with a sentence."""
    sources = []
    for part in text.split(","):
        kind, _, name = part.strip().lower().partition(":")
        if kind == "header" and HEADER_NAME.fullmatch(name):
            sources.append(header_source(name))
        elif kind == "address" and not name:
            sources.append(address_source(trusted_header))
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

"""Reads a client's address, and says what it is charged as: an IPv4 address, or the /64 of an IPv6 one.

An IPv6 address that contains the client's IPv4 address is charged as the IPv4 address, but only in forms
where replies travel to that IPv4 address: a client that picks another one gets no reply, so no connection,
and cannot charge anyone else. ISATAP is not among these forms, since any host of a /64 can choose the last 32
bits.
"""

import re
from ipaddress import IPv4Address, IPv6Address

_PORT = r"(?::(?P<port>[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_BRACKETED = re.compile(rf"\[(?P<host>[^\[\]]+)\]{_PORT}")
_BARE = re.compile(rf"(?P<host>[^\[\]]+?){_PORT}")
_ZONE = re.compile(r"[^\s%,]+")
_FORWARDED_PAIR = re.compile(
    r"""(?:\s*(?P<name>[^\s=;,"]+)=(?P<value>"(?:[^"\\]|\\.)*"|[^\s;,"]*))?\s*(?:;|$)"""
)
_MAX_PORT = 65535

PORT_WITHOUT_BRACKETS = {"cloudfront-viewer-address"}
"""Headers whose values always end in a port, after an IPv6 address without brackets too."""

_MAPPED = 0xFFFF
"""First 96 bits of ::ffff:0:0/96 (RFC 4291 section 2.5.5.2)."""

_LAST_32_BITS = {
    0,  # ::/96, IPv4-compatible: RFC 4291 section 2.5.5.1
    0xFFFF_0000,  # ::ffff:0:0:0/96, IPv4-translated: RFC 2765 section 2.1
    0x0064_FF9B << 64,  # 64:ff9b::/96, NAT64: RFC 6052 section 2.1
}
"""The first 96 bits of other prefixes after which the IPv4 address follows."""

_NAT64_LOCAL = 0x0064_FF9B_0001
"""First 48 bits of 64:ff9b:1::/48, NAT64 with a prefix length that only the translator knows: RFC 8215."""

_TEREDO = 0x2001_0000
"""First 32 bits of 2001::/32. The last 32 bits are the client's address, inverted: RFC 4380 section 4."""

_6TO4 = 0x2002
"""First 16 bits of 2002::/16. The IPv4 address follows: RFC 3056 section 2."""

_MASK_32 = 0xFFFF_FFFF


def plain_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address in `text`, without its zone (`fe80::1%eth0`); None when `text` is anything else."""
    host, percent, zone = text.partition("%")
    if percent and not (":" in host and _ZONE.fullmatch(zone)):
        return None
    try:
        return IPv6Address(host) if ":" in host else IPv4Address(host)
    except ValueError:
        return None


def read_address(text: str, *, ends_in_port: bool = False) -> IPv4Address | IPv6Address | None:
    """The address in a header value; None when there is none, and for a list.

    It may be quoted, in brackets, followed by a port, or an element of the header Forwarded (RFC 7239). No
    element of a list is chosen, since a client may have written any of them. `ends_in_port` decides whether
    `2001:db8::1:4431` ends in a port, or in the last part of the address.
    """
    node = _unquoted(_node(text.strip()))
    if ends_in_port:
        return _without_port(node) or plain_address(node)
    return plain_address(node) or _without_port(node)


def _without_port(node: str) -> IPv4Address | IPv6Address | None:
    for form in (_BRACKETED, _BARE):
        if (found := form.fullmatch(node)) and _is_port(found["port"]):
            return plain_address(found["host"])
    return None


def charged_as(address: IPv4Address | IPv6Address) -> str:
    """The IPv4 address or the IPv6 network that requests from this address are charged to, as text."""
    if isinstance(address, IPv4Address):
        return str(address)
    number = int(address)
    embedded = _embedded(number)
    if embedded is not None:
        return str(IPv4Address(embedded))
    if number >> 80 == _NAT64_LOCAL:
        return str(IPv6Address(number))  # one address per IPv4 client, wherever in it the IPv4 address is
    return f"{IPv6Address(number >> 64 << 64)}/64"


def _embedded(number: int) -> int | None:
    """The IPv4 address of the client that an IPv6 address stands for."""
    first_96, last_32 = number >> 32, number & _MASK_32
    if first_96 == _MAPPED:
        return last_32
    if first_96 in _LAST_32_BITS:
        embedded = last_32
    elif number >> 112 == _6TO4:
        embedded = number >> 80 & _MASK_32
    elif number >> 96 == _TEREDO:
        embedded = last_32 ^ _MASK_32
    elif number >> 80 == _NAT64_LOCAL and last_32 & 0xFF_FFFF and not number >> 56 & 0xFF:
        # A prefix of 96 bits. After a shorter one, the last 24 bits are zero: RFC 6052 section 2.2.
        embedded = last_32
    else:
        return None
    return embedded if _is_unicast(embedded) else None


def _is_unicast(ipv4: int) -> bool:
    """Whether the address can be a client's on a network; false for ::, ::1 and loopback addresses."""
    return 1 <= ipv4 >> 24 <= 223 and ipv4 >> 24 != 127  # noqa: PLR2004 - RFC 6890: 0/8, 127/8, 224/4, 240/4


def _node(text: str) -> str:
    """The node of `for=NODE;proto=...`; a text without parameters as it is; empty if it has not one node.

    A client may have written the value of `host`, so what is quoted there is not read.
    """
    if "=" not in text:
        return text
    pairs = list(_FORWARDED_PAIR.finditer(text))
    if sum(len(pair[0]) for pair in pairs) < len(text):  # something else is before or between the pairs
        return ""
    nodes = [pair["value"] for pair in pairs if (pair["name"] or "").lower() == "for"]
    return nodes[0] if len(nodes) == 1 else ""


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1].strip() if quoted else text


def _is_port(text: str | None) -> bool:
    return text is None or text.startswith("_") or int(text) <= _MAX_PORT

"""Advice on overrides for IPv6 networks whose clients are charged as IPv4 addresses."""

from ipaddress import IPv6Network

from ratelimitd.core.client_address import plain_address

_NETWORKS = (IPv6Network("64:ff9b::/64"), IPv6Network("2001::/32"))
"""NAT64 and Teredo. The other networks of such clients are refused: `field_types.py:key_of_address`."""


def address_advice(name: str) -> str | None:
    """Returns why an override for a valid address or network has no effect, or None."""
    host = plain_address(name.removesuffix("/64"))
    if name.endswith("/64") and any(host in network for network in _NETWORKS):
        return "has no effect: each client in this network is charged as its own IPv4 address"
    return None

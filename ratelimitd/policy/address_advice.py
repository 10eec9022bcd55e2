"""Advice on overrides for IPv6 networks whose clients are charged one by one, by their IPv4 addresses."""

from ipaddress import IPv6Network

from ratelimitd.core.client_address import plain_address

_NETWORKS = tuple(map(IPv6Network, ("64:ff9b::/64", "64:ff9b:1::/48", "2001::/32")))
"""NAT64, NAT64 with a local prefix, and Teredo."""


def address_advice(name: str) -> str | None:
    """Returns why an override for a valid address or network has no effect, or None."""
    host = plain_address(name.removesuffix("/64"))
    if name.endswith("/64") and any(host in network for network in _NETWORKS):
        return "has no effect: the clients in this network are charged one by one, by their IPv4 addresses"
    return None

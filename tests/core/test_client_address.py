"""Tests of reading addresses as proxies write them, and of what an address is charged as."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.client_address import charged_as, plain_address, read_address

V4 = "203.0.113.9"
V6 = "2001:db8::1"


@pytest.mark.parametrize(
    "text",
    [
        V4,
        f" {V4}\t",
        f"{V4}:4431",
        f"{V4}:0",
        f"{V4}:_hidden",
        f"[{V4}]:80",
        f'"{V4}"',
        f'"{V4}:4431"',
        f"'{V4}'",
        f'" {V4} "',
        f"for={V4}",
        f"For={V4}:4431",
        f'for="{V4}:4431"',
        f"for={V4};proto=http;by=198.51.100.7",
        f"proto=https; FOR={V4}",
        f"for={V4};",
        # A client may have written the host.
        f'for={V4};host="x;for=198.51.100.7;y"',
        f'for={V4};host="a, b"',
        rf'host="\";for=198.51.100.7";for={V4}',
    ],
)
def test_an_ipv4_address_is_read_in_every_form(text: str) -> None:
    assert read_address(text) == IPv4Address(V4)


@pytest.mark.parametrize(
    "text",
    [
        V6,
        "2001:DB8:0:0:0:0:0:1",
        f"[{V6}]",
        f"[{V6}]:443",
        f" [{V6}]:443 ",
        f'"[{V6}]"',
        f'"[{V6}]:4711"',
        f"[{V6}%eth0]:443",
        f"[{V6}%25eth0]",
        f"{V6}%2",
        f'for="[{V6}]"',
        f'For="[{V6}]:_port"',
        f"for=[{V6}]",
        f"for={V6}",
        f'host=h;for="[{V6}]:4711";proto=https',
        f"{V6}:51234",  # no group of an address has five digits
        "2001:db8:0:0:0:0:0:1:443",  # an address has eight groups
    ],
)
def test_an_ipv6_address_is_read_in_every_form(text: str) -> None:
    assert read_address(text) == IPv6Address(V6)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("2001:db8::1:4431", V6),
        ("2001:db8::a:b:c:d:4431", "2001:db8::a:b:c:d"),  # else the /64 would be 2001:db8:0:a::
        ("64:ff9b::808:808:4431", "64:ff9b::808:808"),
        ("2001:db8:0:0:0:0:0:1:443", V6),
        (f"[{V6}]:443", V6),
        (f"[{V6}]", V6),
        (f"[{V6}:2]", f"{V6}:2"),
        (V6, V6),
        (f"{V4}:4431", V4),
        (V4, V4),
    ],
)
def test_a_value_that_always_ends_in_a_port_needs_no_brackets(text: str, address: str) -> None:
    assert str(read_address(text, ends_in_port=True)) == address


def test_a_mapped_address_with_a_port_needs_no_brackets() -> None:
    assert charged_as(read_address(f"::ffff:{V4}:4431") or IPv6Address(0)) == V4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "unknown",
        "_hidden",
        "for=unknown",
        "for=",
        "proto=http",
        f"for={V4};for=198.51.100.7",
        f"{V4}, 198.51.100.7",
        f"{V4},{V4}",
        f"{V4},",
        f"for={V4}, for=198.51.100.7",
        f"for={V4};proto=http, for=198.51.100.7",
        f"proto=http, for={V4}",
        f"{V4};for={V4}",
        f'for="{V4}',
        f'for={V4};host="x',
        f"for = {V4}",
        f"{V4} 198.51.100.7",
        "fe80::1%eth0, 10.0.0.1",
        "fe80::1%eth0,10.0.0.1",
        f"{V4}:",
        f"{V4}:port",
        f"{V4}:65536",
        f"{V4}:80:80",
        f"{V4}/32",
        f"{V4}%eth0",
        "203.0.113.256",
        "203.0.113",
        "203.000.113.009",
        "0xcb007109",
        "3405803785",
        "\u0661.2.3.4",
        f"[{V6}",
        f"{V6}]",
        f"[{V6}]443",
        f"[{V6}]:99999",
        f"[[{V6}]]",
        f'"{V6}',
        "fe80::1%",
        f"http://{V4}",
        "/run/envoy.sock",
        "\udcff",
        "client.example",
        "client.example:80",
    ],
)
def test_anything_else_is_not_an_address(text: str) -> None:
    assert read_address(text) is None


@given(st.text() | st.text('0123456789abcdf:.[]"%,;=_ for'))
def test_no_text_breaks_the_reader(text: str) -> None:
    read_address(text)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_a_port_does_not_change_the_address(address: IPv4Address | IPv6Address, port: int) -> None:
    host = str(address) if address.version == 4 else f"[{address}]"
    assert (
        read_address(f"{host}:{port}") == read_address(str(address)) == plain_address(str(address)) == address
    )


@pytest.mark.parametrize(
    "address",
    [
        "::ffff:8.8.8.8",
        "::8.8.8.8",
        "::ffff:0:8.8.8.8",
        "64:ff9b::808:808",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::8.8.8.8",
        "64:ff9b:1:fffe::8.8.8.8",
        "2002:808:808::1",
        "2002:808:808:77:1:2:3:4",
        "2001:0:4136:e378:8000:63bf:f7f7:f7f7",
        "2001::f7f7:f7f7",
    ],
)
def test_an_ipv6_address_that_stands_for_an_ipv4_address_is_charged_as_that_one(address: str) -> None:
    assert charged_as(IPv6Address(address)) == "8.8.8.8"


@pytest.mark.parametrize(
    ("address", "charged"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1", "fe80::/64"),
        ("::1", "::/64"),
        ("::", "::/64"),
        # ISATAP: any host of the /64 can choose this address.
        ("2001:db8::5efe:808:808", "2001:db8::/64"),
        ("2001:db8::200:5efe:808:808", "2001:db8::/64"),
        # Next to the prefixes of the forms above.
        ("::1:808:808", "::/64"),
        ("::fffe:808:808", "::/64"),
        ("64:ff9b::1:808:808", "64:ff9b::/64"),
        ("64:ff9b:2::808:808", "64:ff9b:2::/64"),
        ("64:ff9c::808:808", "64:ff9c::/64"),
        ("2001:1::f7f7:f7f7", "2001:1::/64"),
        ("2003:808:808::1", "2003:808:808::/64"),
        # No client has such an IPv4 address: this network, the loopback, multicast.
        ("2002:7f00:1::1", "2002:7f00:1::/64"),
        ("2002:1::1", "2002:1::/64"),
        ("64:ff9b::224.0.0.1", "64:ff9b::/64"),
        ("2001::808:808", "2001::/64"),  # 247.247.247.247, inverted
        # After a local NAT64 prefix of 48, 56 or 64 bits, the IPv4 address is not at the end: RFC 6052, 2.4.
        ("64:ff9b:1:c000:2:2100::", "64:ff9b:1:c000:2:2100::"),
        ("64:ff9b:1:c0:0:221::", "64:ff9b:1:c0:0:221::"),
        ("64:ff9b:1:0:c0:2:2100:0", "64:ff9b:1:0:c0:2:2100:0"),
        ("64:ff9b:1:0:100:0:808:808", "64:ff9b:1:0:100:0:808:808"),
    ],
)
def test_any_other_ipv6_address_is_charged_as_its_network(address: str, charged: str) -> None:
    assert charged_as(IPv6Address(address)) == charged


def test_a_mapped_loopback_address_is_charged_as_the_loopback_address() -> None:
    """A socket that listens on [::] shows the IPv4 loopback so."""
    assert charged_as(IPv6Address("::ffff:127.0.0.1")) == "127.0.0.1"


def test_clients_of_one_nat64_are_charged_apart() -> None:
    assert charged_as(IPv6Address("64:ff9b::808:808")) != charged_as(IPv6Address("64:ff9b::909:909"))


def translated(client: IPv4Address, prefix: IPv6Address, bits: int) -> IPv6Address:
    """Puts an IPv4 address behind a prefix (RFC 6052 section 2.2): around bits 64 to 71, which are 0."""
    octets = bytearray(prefix.packed[: bits // 8])
    for octet in client.packed:
        octets += bytes([0] * (len(octets) == 8) + [octet])
    return IPv6Address(bytes(octets.ljust(16, b"\0")))


@given(
    st.ip_addresses(v=4, network="8.0.0.0/7"),
    st.ip_addresses(v=6, network="64:ff9b:1::/48"),
    st.sampled_from([48, 56, 64, 96]),
)
def test_every_client_of_a_local_nat64_is_charged_alone(
    client: IPv4Address, prefix: IPv6Address, bits: int
) -> None:
    """The length of the prefix does not matter. No host has an IPv4 address that ends in .0.0.0."""
    prefix = IPv6Address(prefix.packed[:8] + bytes(1) + prefix.packed[9:])  # bits 64 to 71 are 0
    address = translated(client, prefix, bits)
    alone = client if bits == 96 and int(client) & 0xFF_FFFF else address
    assert charged_as(address) == str(alone)


@given(st.ip_addresses(v=6, network="2000::/3"), st.ip_addresses(v=4))
def test_no_native_address_is_charged_as_an_ipv4_address(native: IPv6Address, inside: IPv4Address) -> None:
    """Whatever a host puts into the last 64 bits of an address in its own network."""
    if native.sixtofour is None and native.teredo is None:
        own = IPv6Address(int(native) >> 32 << 32 | int(inside))
        assert charged_as(own) == f"{IPv6Address(int(native) >> 64 << 64)}/64"


@given(st.ip_addresses(v=6))
def test_our_reading_agrees_with_that_of_the_standard_library(address: IPv6Address) -> None:
    expected = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
    if expected and expected.is_global and not expected.is_multicast:
        assert charged_as(address) == str(expected)

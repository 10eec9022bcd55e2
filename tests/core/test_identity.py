"""Who is charged: whatever a client sends, it never reaches somebody else's bucket."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.identity import ANONYMOUS, Source, address_key, identify, parse_sources, plain_key
from ratelimitd.core.model import Identity, Request

ADDRESS = "203.0.113.9"
TRUSTED = "x-ratelimitd-client-address"


def request(peer: str = ADDRESS, **headers: str) -> Request:
    """A request with these headers; an underscore in a name stands for a dash."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", "/api/ping", "host", named, peer, {})


@pytest.fixture
def sources() -> tuple[Source, ...]:
    """The default order, with a trusted header."""
    return parse_sources("header:x-user-id,address", TRUSTED)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("user1", "user1"),
        ("  user1\t", "user1"),  # optional white space is no part of a field value: RFC 9110 section 5.5
        ("Ada.Lovelace-1_~", "Ada.Lovelace-1_~"),
        ("a:api:/x", "a%3Aapi%3A%2Fx"),
        ("rate:global", "rate%3Aglobal"),
        ("ip=203.0.113.9", "ip%3D203.0.113.9"),
        ("=anonymous", "%3Danonymous"),
        ("a{b}", "a%7Bb%7D"),
        ("a\x00\x01\r\n", "a%00%01%0D%0A"),
        ("\udcff", "%FF"),
        ("Zoë", "Zo%C3%AB"),
        ("10.1.2.3", "10.1.2.3"),
    ],
)
def test_a_header_value_is_percent_encoded(sources: tuple[Source, ...], value: str, key: str) -> None:
    """Every byte that is not unreserved in a URL is escaped."""
    assert identify(sources, request(x_user_id=value)) == Identity("header", key)


@pytest.mark.parametrize("value", ["", " ", "\t", "u1,u2", "u1,", ","])
def test_an_empty_or_joined_value_names_nobody(sources: tuple[Source, ...], value: str) -> None:
    """Two headers joined could be anyone's two names: the address decides."""
    assert identify(sources, request(x_user_id=value)) == Identity("address", f"ip={ADDRESS}")


def test_a_long_value_is_replaced_by_its_hash(sources: tuple[Source, ...]) -> None:
    """10 kB cost no more memory than 71 characters, and differ from each other."""
    one, other = (identify(sources, request(x_user_id=end + "x" * 10_000)).key for end in "ab")
    assert re.fullmatch("sha256=[0-9a-f]{64}", one)
    assert one != other


def test_a_hash_cannot_be_sent_as_a_name(sources: tuple[Source, ...]) -> None:
    """A user who calls himself by another's hash gets a key of his own."""
    hashed = identify(sources, request(x_user_id="x" * 10_000)).key
    assert identify(sources, request(x_user_id=hashed)).key != hashed


def test_a_name_that_looks_like_an_address_is_no_address(sources: tuple[Source, ...]) -> None:
    """The user `203.0.113.9` and the client at that address have a bucket each."""
    assert identify(sources, request(x_user_id=ADDRESS)) != identify(sources, request())


def test_only_the_trusted_header_and_the_peer_tell_the_address(sources: tuple[Source, ...]) -> None:
    """X-Forwarded-For changes nothing."""
    assert identify(sources, request(x_forwarded_for="1.1.1.1")).key == f"ip={ADDRESS}"
    assert identify(sources, request(x_ratelimitd_client_address="198.51.100.7")).key == "ip=198.51.100.7"
    assert identify(sources, request(x_ratelimitd_client_address="1.1.1.1,2.2.2.2")).key == f"ip={ADDRESS}"


def test_without_a_trusted_header_only_the_peer_counts() -> None:
    """A client that sends the header of another setup changes nothing."""
    untrusting = parse_sources("address", None)
    assert identify(untrusting, request(x_ratelimitd_client_address="1.1.1.1")).key == f"ip={ADDRESS}"


@pytest.mark.parametrize("peer", ["", "/run/envoy.sock", "not an address"])
def test_who_cannot_be_named_is_anonymous(sources: tuple[Source, ...], peer: str) -> None:
    """They share one bucket, which no header value can name."""
    assert identify(sources, request(peer)) is ANONYMOUS


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("203.0.113.9", "ip=203.0.113.9"),
        ("::ffff:203.0.113.9", "ip=203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "ip=2001%3Adb8%3A1%3A2%3A%3A%2F64"),
        ("2001:db8:1:2::1", "ip=2001%3Adb8%3A1%3A2%3A%3A%2F64"),
        ("fe80::1%eth0", "ip=fe80%3A%3A%2F64"),
        ("203.0.113.9:80", None),
        ("", None),
    ],
)
def test_addresses_are_canonical(text: str, key: str | None) -> None:
    """One client, one key: IPv6 by its /64, mapped IPv4 as IPv4."""
    assert address_key(text) == key


@given(st.text(), st.text())
def test_different_names_have_different_keys(one: str, other: str) -> None:
    """No two names share a bucket, and no key holds what could end or extend it."""
    assert (plain_key(one) == plain_key(other)) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]*|sha256=[0-9a-f]{64}", plain_key(one))


def test_sources_are_tried_in_the_given_order() -> None:
    """The address first, and the header only where there is no address."""
    address_first = parse_sources(" ADDRESS , header:X-Tenant ", None)
    assert identify(address_first, request(x_tenant="t")).kind == "address"
    assert identify(address_first, request("", x_tenant="t")) == Identity("header", "t")


@pytest.mark.parametrize("text", ["", "header:", "header:a b", "cookie:x", "address:x", "header:x,,address"])
def test_a_bad_list_of_sources_is_refused(text: str) -> None:
    """The sentence says what would be right."""
    with pytest.raises(ValueError, match="use header:NAME or address, separated by commas"):
        parse_sources(text, None)

"""Tests of the identity of a request. No header value reaches the bucket of another user."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.identity import (
    ANONYMOUS,
    MAX_ADDRESS,
    Source,
    address_key,
    client_key,
    identify,
    identity_of_key,
    parse_sources,
    plain_key,
    value_of_key,
)
from ratelimitd.core.model import Identity, Request

ADDRESS = "203.0.113.9"
TRUSTED = "x-ratelimitd-client-address"


def request(peer: str = ADDRESS, **headers: str) -> Request:
    """Returns a request with these headers; an underscore in a name becomes a dash."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", "/api/ping", "host", named, peer, {})


@pytest.fixture
def sources() -> tuple[Source, ...]:
    """Returns the default sources, with a trusted address header."""
    return parse_sources("header:x-user-id,address", TRUSTED)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("user1", "user1"),
        ("  user1\t", "user1"),  # a field value excludes surrounding white space: RFC 9110 section 5.5
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
def test_bytes_that_are_not_unreserved_in_a_url_are_percent_encoded(
    sources: tuple[Source, ...], value: str, key: str
) -> None:
    assert identify(sources, request(x_user_id=value)) == Identity("header", key)


@pytest.mark.parametrize("value", ["", " ", "\t", "u1,u2", "u1,", ","])
def test_an_empty_or_joined_header_value_is_ignored(sources: tuple[Source, ...], value: str) -> None:
    """A comma may join two headers, so the value does not identify one user; the address is used."""
    assert identify(sources, request(x_user_id=value)) == Identity("address", f"ip={ADDRESS}")


def test_a_long_value_is_replaced_by_its_hash(sources: tuple[Source, ...]) -> None:
    one, other = (identify(sources, request(x_user_id=end + "x" * 10_000)).key for end in "ab")
    assert re.fullmatch("sha256=[0-9a-f]{64}", one)
    assert one != other


def test_a_user_named_like_a_hash_does_not_get_the_key_of_the_hashed_user(
    sources: tuple[Source, ...],
) -> None:
    hashed = identify(sources, request(x_user_id="x" * 10_000)).key
    assert identify(sources, request(x_user_id=hashed)).key != hashed


def test_a_user_named_like_an_address_has_a_separate_key(sources: tuple[Source, ...]) -> None:
    assert identify(sources, request(x_user_id=ADDRESS)) != identify(sources, request())


def test_the_address_comes_from_the_trusted_header_or_the_peer(sources: tuple[Source, ...]) -> None:
    assert identify(sources, request(x_forwarded_for="1.1.1.1")).key == f"ip={ADDRESS}"
    assert identify(sources, request(x_ratelimitd_client_address="198.51.100.7")).key == "ip=198.51.100.7"
    assert identify(sources, request(x_ratelimitd_client_address="1.1.1.1,2.2.2.2")).key == f"ip={ADDRESS}"


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("203.0.113.7:4431", "ip=203.0.113.7"),
        ("[2001:db8::1]:443", "ip=2001%3Adb8%3A%3A%2F64"),
        ("[2001:db8::1]", "ip=2001%3Adb8%3A%3A%2F64"),
        ("64:ff9b::808:808", "ip=8.8.8.8"),
    ],
)
def test_the_trusted_header_and_the_peer_may_have_any_form_of_an_address(
    sources: tuple[Source, ...], value: str, key: str
) -> None:
    assert identify(sources, request(x_ratelimitd_client_address=value)).key == key
    assert identify(sources, request(value)).key == key


def test_the_header_of_cloudfront_ends_in_a_port_and_the_peer_does_not() -> None:
    sources = parse_sources("address", "cloudfront-viewer-address")
    peer = "64:ff9b::808:808"
    assert identify(sources, request(peer, cloudfront_viewer_address=f"{peer}:4431")).key == "ip=8.8.8.8"
    assert identify(sources, request(peer)).key == "ip=8.8.8.8"


@pytest.mark.parametrize("value", ["", "-", "unknown", "1.1.1.1,2.2.2.2", "1.1.1.1" + " " * MAX_ADDRESS])
def test_an_unreadable_value_is_reported_and_the_peer_is_charged(value: str) -> None:
    reported: list[str | None] = []
    reporting = parse_sources("header:x-user-id,address", TRUSTED, reported.append)
    assert identify(reporting, request(x_ratelimitd_client_address=value)).key == f"ip={ADDRESS}"
    assert identify(reporting, request(x_ratelimitd_client_address=value)).key == f"ip={ADDRESS}"
    assert reported == [value, value]


def test_only_values_that_are_needed_and_not_addresses_are_reported() -> None:
    reported: list[str | None] = []
    reporting = parse_sources("header:x-user-id,address", TRUSTED, reported.append)
    identify(reporting, request(x_ratelimitd_client_address="1.1.1.1:80"))
    identify(reporting, request(x_ratelimitd_client_address="unknown", x_user_id="user1"))
    identify(parse_sources("address", None, reported.append), request("/run/envoy.sock"))
    assert reported == []


def test_a_missing_header_is_reported() -> None:
    reported: list[str | None] = []
    reporting = parse_sources("header:x-user-id,address", TRUSTED, reported.append)
    assert identify(reporting, request()).key == f"ip={ADDRESS}"
    assert reported == [None]


def test_the_address_is_the_peer_when_no_header_is_trusted() -> None:
    untrusting = parse_sources("address", None)
    assert identify(untrusting, request(x_ratelimitd_client_address="1.1.1.1")).key == f"ip={ADDRESS}"


@pytest.mark.parametrize("peer", ["", "/run/envoy.sock", "not an address"])
def test_a_request_without_user_and_address_is_anonymous(sources: tuple[Source, ...], peer: str) -> None:
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
def test_all_spellings_of_an_address_have_one_key(text: str, key: str | None) -> None:
    """An IPv6 address counts as its /64 network, and a mapped IPv4 address as IPv4."""
    assert address_key(text) == key


@given(st.text(), st.text())
def test_different_names_have_different_keys(one: str, other: str) -> None:
    """A key contains no separator, so it cannot end or extend the key of a bucket."""
    assert (plain_key(one) == plain_key(other)) == (one == other)
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]*|sha256=[0-9a-f]{64}", plain_key(one))


@given(st.text(min_size=1) | st.text(min_size=129))
def test_the_key_of_a_user_identifies_the_user(user: str) -> None:
    key = plain_key(user)
    assert identity_of_key(key) == Identity("header", key)
    assert key.startswith("sha256=") or value_of_key(key) == user


@given(st.ip_addresses() | st.sampled_from(["::1", "::2", "64:ff9b::", "64:ff9b:1::a:b:c", "2002::"]))
def test_the_key_of_an_address_identifies_the_address(address: object) -> None:
    key = client_key(str(address))
    assert key is not None
    assert identity_of_key(key) == Identity("address", key)


def test_the_key_of_anonymous_requests_identifies_them() -> None:
    assert identity_of_key("=anonymous") == ANONYMOUS


@pytest.mark.parametrize(
    "key",
    [
        *(
            "",
            "a b",
            "a%2fb",
            "%",
            "%41",
            "a" * 129,
            "a*",
            "user:x",
            "Zoë",
            "=anon",
            "hashed=ab",
            "sha256=ab",
        ),
        *("ip=", "ip=x", "ip=010.0.0.1", "ip=2001:db8::", "ip=2001%3Adb8%3A%3A", "ip=2001%3Adb8%3A%3A1%2F64"),
        *("ip=%3A%3Affff%3A203.0.113.9", "ip=203.0.113.9%2F64", "sha256=" + "A" * 64),
    ],
)
def test_no_identity_has_such_a_key(key: str) -> None:
    assert identity_of_key(key) is None


def test_sources_are_tried_in_the_given_order() -> None:
    address_first = parse_sources(" ADDRESS , header:X-Tenant ", None)
    assert identify(address_first, request(x_tenant="t")).kind == "address"
    assert identify(address_first, request("", x_tenant="t")) == Identity("header", "t")


@pytest.mark.parametrize("text", ["", "header:", "header:a b", "cookie:x", "address:x", "header:x,,address"])
def test_an_invalid_list_of_sources_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="use header:NAME or address, separated by commas"):
        parse_sources(text, None)

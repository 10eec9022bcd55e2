"""Tests of the keys of buckets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.identity import plain_key
from ratelimitd.core.keys import BucketKey, identity_globs, key_template, parse_key
from ratelimitd.core.tiers import TIERS, TierName


def built_key(tier: TierName, identity: str, api: str, prefix: str, *, shadow: bool) -> str:
    before, after = key_template(tier, api, prefix, shadow=shadow)
    return before if after is None else before + identity + after


@pytest.mark.parametrize(
    ("tier", "shadow", "key"),
    [
        (TierName.GLOBAL, False, "rate:global"),
        (TierName.USER, False, "rate:user:u1"),
        (TierName.USER_API, False, "rate:user:u1:api:/api/*"),
        (TierName.GLOBAL, True, "rate:shadow:global"),
        (TierName.USER_API, True, "rate:shadow:user:u1:api:/api/*"),
    ],
)
def test_keys_have_the_documented_form(tier: TierName, key: str, *, shadow: bool) -> None:
    assert built_key(tier, "u1", "/api/*", "rate", shadow=shadow) == key


@given(
    st.sampled_from(list(TIERS.values())),
    st.text(min_size=1).map(plain_key),
    st.text(),
    st.sampled_from(["rate", "a:b", "shadow", "user"]),
    st.booleans(),
)
def test_parsing_a_key_reverses_building_it(
    tier: object, identity: str, api: str, prefix: str, shadow: object
) -> None:
    assert isinstance(tier, tuple)
    name, template = tier[0], tier[1]
    parsed = parse_key(built_key(name, identity, api, prefix, shadow=bool(shadow)), prefix)
    assert parsed == BucketKey(
        name,
        identity if "{identity}" in template else None,
        api if "{api}" in template else None,
        shadow=bool(shadow),
    )


@pytest.mark.parametrize(
    "key", ["rate", "rate:", "rate:usher:u1", "other:global", "rate:user:", "rate:global:x"]
)
def test_other_keys_are_not_buckets(key: str) -> None:
    assert parse_key(key, "rate") is None


def test_four_patterns_find_the_buckets_of_an_identity() -> None:
    assert identity_globs("u1", "rate") == [
        "rate:user:u1",
        "rate:user:u1:api:*",
        "rate:shadow:user:u1",
        "rate:shadow:user:u1:api:*",
    ]

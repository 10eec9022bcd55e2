"""Tests of the keys of buckets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.identity import plain_key
from ratelimitd.core.keys import BucketKey, KeyLayout
from ratelimitd.core.tiers import TIERS, TierName

PLAIN, TAGGED = KeyLayout("rate"), KeyLayout("rate", tagged=True)


def built_key(layout: KeyLayout, tier: TierName, identity: str, api: str, *, shadow: bool) -> str:
    before, after = layout.template(tier, api, shadow=shadow)
    return before if after is None else before + identity + after


@pytest.mark.parametrize(
    ("tier", "shadow", "plain", "tagged"),
    [
        (TierName.GLOBAL, False, "rate:global", "rate:global"),
        (TierName.USER, False, "rate:user:u1", "rate:user:{u1}"),
        (TierName.USER_API, False, "rate:user:u1:api:/{id}", "rate:user:{u1}:api:/{id}"),
        (TierName.GLOBAL, True, "rate:shadow:global", "rate:shadow:global"),
        (TierName.USER_API, True, "rate:shadow:user:u1:api:/{id}", "rate:shadow:user:{u1}:api:/{id}"),
    ],
)
def test_keys_have_the_documented_form(tier: TierName, plain: str, tagged: str, *, shadow: bool) -> None:
    assert built_key(PLAIN, tier, "u1", "/{id}", shadow=shadow) == plain
    assert built_key(TAGGED, tier, "u1", "/{id}", shadow=shadow) == tagged


@given(
    st.sampled_from(list(TIERS.values())),
    st.text(min_size=1).map(plain_key),
    st.text(),
    st.builds(KeyLayout, st.sampled_from(["rate", "a:b", "shadow", "user"]), st.booleans()),
    st.booleans(),
)
def test_parsing_a_key_reverses_building_it(
    tier: object, identity: str, api: str, layout: KeyLayout, shadow: object
) -> None:
    assert isinstance(tier, tuple)
    name, template = tier[0], tier[1]
    built = built_key(layout, name, identity, api, shadow=bool(shadow))
    parsed = KeyLayout(layout.prefix).parse(built)
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
    assert PLAIN.parse(key) is None


def test_four_patterns_find_the_buckets_of_an_identity() -> None:
    assert PLAIN.globs("u1") == [
        "rate:user:u1",
        "rate:user:u1:api:*",
        "rate:shadow:user:u1",
        "rate:shadow:user:u1:api:*",
    ]

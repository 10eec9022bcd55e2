"""Keys of buckets, built and parsed in this one place, from the templates of `core/tiers.py`.

    rate:global    rate:user:alice    rate:user:alice:api:/api/*    rate:shadow:user:alice

The key prefix comes first; a bucket in shadow has `shadow:` after it. An identity's key holds no `:`, so each
key has one reading.
"""

import re
from typing import NamedTuple

from ratelimitd.core.tiers import TIERS, TierName

_SHADOW = "shadow:"

_PATTERNS = {
    tier.name: re.compile(
        re.escape(tier.key)
        .replace(r"\{identity\}", "(?P<identity>[^:]+)")
        .replace(r"\{api\}", "(?P<api>.*)"),
        re.DOTALL,
    )
    for tier in TIERS.values()
}


KeyTemplate = tuple[str, str | None]
"""A key in two pieces, between which an identity's key goes; the second is None where none does.

A plain tuple, since each decision unpacks three: that takes half as long as unpacking named tuples.
"""


class BucketKey(NamedTuple):
    """What a key says of its bucket. `identity` and `api` are None where the tier has none."""

    tier: TierName
    identity: str | None
    api: str | None
    shadow: bool


def key_template(tier: TierName, api: str, key_prefix: str, *, shadow: bool) -> KeyTemplate:
    """The key of a tier's bucket for requests to `api`, whoever sends them."""
    before, found, after = TIERS[tier].key.partition("{identity}")
    start = f"{key_prefix}:{_SHADOW if shadow else ''}{before}"
    return start.replace("{api}", api), after.replace("{api}", api) if found else None


def parse_key(key: str, key_prefix: str) -> BucketKey | None:
    """The bucket that a key names; None for a key that is not a bucket's."""
    if not key.startswith(f"{key_prefix}:"):
        return None
    rest = key.removeprefix(f"{key_prefix}:")
    shadow = rest.startswith(_SHADOW)
    rest = rest.removeprefix(_SHADOW)
    for name, pattern in _PATTERNS.items():
        if found := pattern.fullmatch(rest):
            parts = found.groupdict()
            return BucketKey(name, parts.get("identity"), parts.get("api"), shadow)
    return None


def identity_globs(identity_key: str, key_prefix: str) -> list[str]:
    """Patterns of Redis that match the keys of this identity's buckets, those in shadow too.

    A pattern without `*` is a whole key: neither an identity's key nor a prefix holds a wildcard.
    """
    templates = [
        key_template(name, "*", key_prefix, shadow=shadow)
        for shadow in (False, True)
        for name, tier in TIERS.items()
        if "{identity}" in tier.key
    ]
    return [f"{before}{identity_key}{after}" for before, after in templates]

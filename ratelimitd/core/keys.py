"""Keys of buckets, built and parsed in this one place, from the templates of `core/tiers.py`.

    rate:global    rate:user:alice    rate:user:alice:api:/api/*    rate:shadow:user:alice

In a Redis Cluster the identity is the hash tag, so that all buckets of an identity are on one node:

    rate:global    rate:user:{alice}    rate:user:{alice}:api:/api/*    rate:shadow:user:{alice}

The key prefix comes first; a bucket in shadow has `shadow:` after it. An identity's key holds no `:` and no
brace, so each key has one reading.
"""

import re
from typing import NamedTuple

from ratelimitd.core.tiers import TIERS, TierName

_SHADOW = "shadow:"

_PATTERNS = {
    tier.name: re.compile(
        re.escape(tier.key)
        .replace(r"\{identity\}", r"(?:(?P<identity>[^:{}]+)|\{(?P<tag>[^:{}]+)\})")
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


class KeyLayout(NamedTuple):
    """How the keys of buckets are built.

    Args:
        prefix: what each of them begins with.
        tagged: whether the identity is a hash tag, for a Redis Cluster.
    """

    prefix: str
    tagged: bool = False

    def template(self, tier: TierName, api: str, *, shadow: bool) -> KeyTemplate:
        """Returns the key of a tier's bucket for requests to `api`, for any identity."""
        before, found, after = TIERS[tier].key.partition("{identity}")
        start = f"{self.prefix}:{_SHADOW if shadow else ''}{before}"
        if not found:
            return start.replace("{api}", api), None
        opening, closing = ("{", "}") if self.tagged else ("", "")
        return start + opening, closing + after.replace("{api}", api)

    def parse(self, key: str) -> BucketKey | None:
        """Returns the bucket that a key of either form names; None for other keys."""
        if not key.startswith(f"{self.prefix}:"):
            return None
        rest = key.removeprefix(f"{self.prefix}:")
        shadow = rest.startswith(_SHADOW)
        rest = rest.removeprefix(_SHADOW)
        for name, pattern in _PATTERNS.items():
            if found := pattern.fullmatch(rest):
                parts = found.groupdict()
                identity = parts.get("identity") or parts.get("tag")
                return BucketKey(name, identity, parts.get("api"), shadow)
        return None

    def globs(self, identity_key: str) -> list[str]:
        """Returns patterns of Redis that match the keys of this identity's buckets, those in shadow too.

        A pattern without `*` is a whole key: neither an identity's key nor a prefix holds a wildcard.
        """
        templates = [
            self.template(name, "*", shadow=shadow)
            for shadow in (False, True)
            for name, tier in TIERS.items()
            if "{identity}" in tier.key
        ]
        return [f"{before}{identity_key}{after}" for before, after in templates]

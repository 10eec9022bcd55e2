"""The layout of the usage series in the store: keys, fields, and how long they are kept.

    {CONFIG_KEY}:usage:10s:START       two minutes of buckets of 10 s, for 24 h
    {CONFIG_KEY}:usage:1m:START        a quarter of an hour of buckets of a minute, for 7 d
    {CONFIG_KEY}:usage:apis:1m:START   a minute by API, for 75 min
    {CONFIG_KEY}:usage:apis:30m:START  half an hour by API, for 7 d
    {CONFIG_KEY}:usage:names:START     the names of the APIs of a day
    {CONFIG_KEY}:usage:total           all decisions so far, by outcome and tier
    {CONFIG_KEY}:usage:added:REPLICA   the number of the replica's last addition

START is in seconds since the epoch, by the store's clock. All keys are hashes, except the last. Names are
short, and a hash has at most 512 fields, so that Redis stores it as one block without pointers: a field then
takes about 9 bytes instead of 90.
"""

import hashlib
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ratelimitd.core.model import Verdict
from ratelimitd.core.tiers import TierName
from ratelimitd.telemetry.decision_counts import OTHER_API
from ratelimitd.utf8 import encodable

DAY_S = 86_400

MAX_NAMES = 200
"""Names of APIs per day that are counted apart, on all replicas together. The rest counts as `other`."""

NAMES_KEPT_S = 9 * DAY_S
"""Names must outlive the counts that refer to them."""

TOTAL_KEPT_S = 30 * DAY_S
"""How long the totals outlive the last replica."""

ADDED_KEPT_S = 3600
"""How long a replica may take to learn whether its last addition arrived."""

OTHER_ID = "other"
"""The id of all other APIs together. The ids of APIs have six characters."""

MAX_NAME_BYTES = 96
"""Bytes of an API's name in the store. A longer one is cut, and ends with its id."""

MAX_CACHED = 512
"""Names of APIs whose short form is kept in memory."""


@dataclass(frozen=True, slots=True)
class Level:
    """Buckets of one length.

    Args:
        name: its part of the key.
        bucket_s: length of a bucket.
        per_key: buckets that share a hash.
        kept_s: how long a hash is kept after the last addition.
    """

    name: str
    bucket_s: int
    per_key: int
    kept_s: int

    @property
    def key_s(self) -> int:
        """The length of time that a hash covers."""
        return self.bucket_s * self.per_key

    def key(self, config_key: str, at_s: int) -> str:
        """Returns the key of the hash that covers an instant."""
        return f"{{{config_key}}}:usage:{self.name}:{at_s - at_s % self.key_s}"


FINE = Level("10s", bucket_s=10, per_key=12, kept_s=DAY_S)
COARSE = Level("1m", bucket_s=60, per_key=15, kept_s=7 * DAY_S)
APIS_FINE = Level("apis:1m", bucket_s=60, per_key=1, kept_s=75 * 60)
APIS_COARSE = Level("apis:30m", bucket_s=1800, per_key=1, kept_s=7 * DAY_S + 2 * 3600)

OFFSETS = "0123456789abcde"
"""The first character of a field in FINE and COARSE: the bucket's place in the hash."""

CODES: dict[tuple[Verdict, TierName | Literal[""]], str] = {
    (Verdict.ALLOWED, ""): "a",
    (Verdict.DENIED, TierName.GLOBAL): "g",
    (Verdict.DENIED, TierName.USER): "u",
    (Verdict.DENIED, TierName.USER_API): "p",
    (Verdict.BLOCKED, ""): "b",
    (Verdict.EXEMPT, ""): "e",
    (Verdict.UNDECIDED, ""): "n",
}
"""The second character of a field: decisions, by outcome and the tier that denied."""

LOCAL = "l"
"""Decisions that needed no call to the store."""

DEGRADED = "d"
"""Decisions by a replica's share of the limits, because the store could not decide."""

TOTAL_FIELDS = {f"{outcome} {tier}".strip(): code for (outcome, tier), code in CODES.items()} | {
    "local": LOCAL,
    "degraded": DEGRADED,
}
"""The fields of the totals: `allowed`, `denied user`."""

STORE_SECONDS = "ABCDEFGHIJKLMNO"
"""Calls to the store, by duration: one for each bucket of a telemetry.histogram.Histogram."""

REPLICAS = "r"
"""Replicas that reported in the bucket."""

STATE = "s"
"""Not a count, but what the last replica to report knew, separated by spaces: the policy's revision; and if
the tier `global` is on, the microtokens in its bucket and its capacity in tokens."""

API_ALLOWED, API_DENIED = "ad"
"""The last character of a field in APIS_FINE and APIS_COARSE, after the API's id."""


def total_key(config_key: str) -> str:
    """Returns the key of all decisions so far."""
    return f"{{{config_key}}}:usage:total"


def added_key(config_key: str, replica_id: str) -> str:
    """Returns the key of the number of a replica's last addition."""
    return f"{{{config_key}}}:usage:added:{replica_id}"


def names_key(config_key: str, at_s: int) -> str:
    """Returns the key of the names of the APIs that were used on the day of an instant."""
    return f"{{{config_key}}}:usage:names:{at_s - at_s % DAY_S}"


@lru_cache(MAX_CACHED)
def api_id(name: str) -> str:
    """Returns the short name of an API in fields: 36 bits of a digest, or OTHER_ID."""
    if name == OTHER_API:
        return OTHER_ID
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
    return urlsafe_b64encode(digest)[:6].decode()


@lru_cache(MAX_CACHED)
def stored_name(name: str) -> bytes:
    """Returns the name of an API as the store keeps it, so that no name can fill the store."""
    encoded = encodable(name).encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return encoded
    ending = f"…~{api_id(name)}".encode()
    return encoded[: MAX_NAME_BYTES - len(ending)].decode(errors="ignore").encode() + ending

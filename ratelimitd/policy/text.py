"""The text of a policy, JSON or YAML, flat or full: read in one way by everybody who reads one.

Whatever the text is, it is a policy or a PolicyError: every other error here is a defect.
"""

import hashlib

from ratelimitd.errors import PolicyError, Problem
from ratelimitd.policy.document import FlatPolicy, PolicyDocument
from ratelimitd.policy.normal_form import normal_text
from ratelimitd.policy.plain_data import plain_data
from ratelimitd.policy.problems import bounded, validated

__all__ = [
    "DEFAULT_TEXT",
    "MAX_BYTES",
    "FlatPolicy",
    "PolicyDocument",
    "digest_of",
    "digest_of_sha256",
    "normal_text",
    "parse",
]

MAX_BYTES = 1 << 20
"""A longer text is refused unread."""

DEFAULT_TEXT = (
    '{"global_capacity": 500, "global_rate": 50, "user_capacity": 100, "user_rate": 5,'
    ' "user_api_capacity": 20, "user_api_rate": 2}'
)
"""What is in force while the store holds no policy."""


DIGEST_DIGITS = 12


def sha256_of(text: bytes | str) -> str:
    """Return the SHA-256 of a policy text in hex."""
    return hashlib.sha256(_encoded(text)).hexdigest()


def digest_of(text: bytes | str) -> str:
    """Return the digest of a policy text: the first 12 hex digits of its SHA-256."""
    return digest_of_sha256(sha256_of(text))


def digest_of_sha256(sha256: str) -> str:
    """Return the digest of the policy text whose SHA-256, in hex, is known."""
    return sha256[:DIGEST_DIGITS]


def parse(text: bytes | str) -> FlatPolicy | PolicyDocument:
    """The policy in `text`. Raises PolicyError that names everything wrong with it at once."""
    try:
        data = plain_data(_decoded(text))
    except PolicyError as error:
        raise PolicyError(*bounded(error.problems)) from error.__cause__
    return validated(data)


def _encoded(text: bytes | str) -> bytes:
    # A lone surrogate becomes bytes that are not UTF-8, which _decoded rejects.
    return text if isinstance(text, bytes) else text.encode(errors="surrogatepass")


def _decoded(text: bytes | str) -> str:
    content = _encoded(text)
    if len(content) > MAX_BYTES:
        raise PolicyError(Problem("", f"must have at most {MAX_BYTES} bytes, got {len(content)}"))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError(Problem("", "must be text in UTF-8")) from error

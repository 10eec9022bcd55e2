"""Policy texts: JSON or YAML, in the flat or the full form. All readers of a policy parse it here.

Every text is either a policy or a PolicyError. Any other exception is a defect.
"""

import hashlib

from ratelimitd.errors import PolicyError, Problem
from ratelimitd.policy.flat_form import Policy
from ratelimitd.policy.plain_data import plain_data
from ratelimitd.policy.problems import bounded, validated

MAX_BYTES = 1 << 20
"""Longer texts are rejected unread."""

DEFAULT_TEXT = (
    '{"global_capacity": 500, "global_rate": 50, "user_capacity": 100, "user_rate": 5,'
    ' "user_api_capacity": 20, "user_api_rate": 2}'
)
"""The policy in force while the store holds none."""

DIGEST_DIGITS = 12


def sha256_of(text: bytes | str) -> str:
    """Returns the SHA-256 of a policy text in hex."""
    return hashlib.sha256(_encoded(text)).hexdigest()


def digest_of(text: bytes | str) -> str:
    """Returns the digest of a policy text: the first 12 hex digits of its SHA-256."""
    return digest_of_sha256(sha256_of(text))


def digest_of_sha256(sha256: str) -> str:
    """Returns the digest of the policy text that has this SHA-256, in hex."""
    return sha256[:DIGEST_DIGITS]


def parse(text: bytes | str) -> Policy:
    """Returns the policy in a text. Raises PolicyError with every problem at once."""
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

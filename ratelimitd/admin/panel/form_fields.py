"""Converts the fields of forms to values. An invalid field raises an error with a sentence."""

from collections.abc import Mapping

from ratelimitd.control.request_spec import RequestSpec, Subject, join_headers
from ratelimitd.errors import RequestSpecError, UnknownRevisionError
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.revision import checked_note

MAX_NUMBER_DIGITS = 15


def revision_number(text: str) -> int:
    """Returns the number of a revision. Raises UnknownRevisionError."""
    if not text.isascii() or not text.isdigit() or len(text) > MAX_NUMBER_DIGITS:
        raise UnknownRevisionError(f"{text!r:.40} is not a revision number")
    return int(text)


def expected(fields: Mapping[str, str]) -> Expected:
    """Returns the revision that a form started from. Raises UnknownRevisionError."""
    try:
        return Expected.parse(fields.get("expected", ""))
    except ValueError as error:
        raise UnknownRevisionError(f"the revision that the form started from {error}") from error


def policy_text(fields: Mapping[str, str]) -> str:
    """Returns the text of a policy. Browsers end each line of a form with CR LF; a policy uses LF."""
    return fields.get("text", "").replace("\r\n", "\n")


def note(fields: Mapping[str, str]) -> str:
    """Returns the note as one line. Raises RequestSpecError if it is too long."""
    try:
        return checked_note(" ".join(fields.get("note", "").split()))
    except ValueError as error:
        raise RequestSpecError(f"the note {error}") from error


def subject(fields: Mapping[str, str]) -> Subject:
    """Returns the user, the address or the key."""
    return Subject(
        user=fields.get("user") or None,
        address=fields.get("address", "").strip() or None,
        key=fields.get("key") or None,
    )


def request_spec(fields: Mapping[str, str]) -> RequestSpec:
    """Returns the request to explain. Raises RequestSpecError."""
    return RequestSpec(
        path=fields.get("path", "").strip(),
        method=fields.get("method", "").strip() or "GET",
        user=fields.get("user") or None,
        address=fields.get("address", "").strip() or None,
        headers=join_headers(_pairs(fields.get("headers", ""), ":", "a header")),
        context=dict(_pairs(fields.get("context", ""), "=", "a context value")),
        key=fields.get("key") or None,
    )


def _pairs(text: str, separator: str, noun: str) -> list[tuple[str, str]]:
    """Returns name and value of each line. Raises RequestSpecError."""
    pairs = []
    for line in text.splitlines():
        if not line.strip():
            continue
        name, sign, value = (part.strip() for part in line.partition(separator))
        if not sign or not name:
            raise RequestSpecError(
                f"{line.strip()!r:.60} is not {noun}: write NAME{separator} VALUE, one per line"
            )
        pairs.append((name, value))
    return pairs

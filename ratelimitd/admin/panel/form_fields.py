"""What people type into forms, as the control takes it. What cannot be read raises a sentence."""

from collections.abc import Mapping

from ratelimitd.control.request_spec import RequestSpec, Subject
from ratelimitd.errors import RequestSpecError, UnknownRevisionError

MAX_NOTE = 200
"""Characters of a note; the form takes no more."""

MAX_NUMBER_DIGITS = 15


def number_of(text: str) -> int:
    """A revision's number. Raises UnknownRevisionError."""
    if not text.isascii() or not text.isdigit() or len(text) > MAX_NUMBER_DIGITS:
        raise UnknownRevisionError(f"{text!r:.40} is no number of a revision")
    return int(text)


def text_of(sent: Mapping[str, str]) -> str:
    """A policy's text. A browser ends the lines of every form with CR LF; a policy's end with LF."""
    return sent.get("text", "").replace("\r\n", "\n")


def note_of(sent: Mapping[str, str]) -> str:
    """A note, in one line."""
    return " ".join(sent.get("note", "").split())[:MAX_NOTE]


def who_of(sent: Mapping[str, str]) -> Subject:
    """Somebody by user id or address."""
    return Subject(user=sent.get("user") or None, address=sent.get("address", "").strip() or None)


def question_of(sent: Mapping[str, str]) -> RequestSpec:
    """A request that somebody asks about. Raises RequestSpecError."""
    return RequestSpec(
        path=sent.get("path", "").strip(),
        method=sent.get("method", "").strip() or "GET",
        user=sent.get("user") or None,
        address=sent.get("address", "").strip() or None,
        headers=_pairs(sent.get("headers", ""), ":", "a header"),
        context=_pairs(sent.get("context", ""), "=", "a context value"),
    )


def _pairs(text: str, between: str, what: str) -> dict[str, str]:
    """Names and values, one pair a line. A header that stands twice has both values, as Envoy joins them."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, sign, value = (part.strip() for part in line.partition(between))
        if not sign or not name:
            raise RequestSpecError(
                f"{line.strip()!r:.60} is not {what}: write NAME{between} VALUE, one a line"
            )
        found[name] = f"{found[name]},{value}" if name in found else value
    return found

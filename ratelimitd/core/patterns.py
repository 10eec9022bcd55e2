"""Path patterns, and paths as they are compared with them.

A path is the list of its segments, the parts between slashes. Empty segments do not count, so neither a
trailing slash nor a doubled one takes a request out of its route. Case counts, as it does in Envoy's routes.
Segments are compared decoded, so every encoding of a character is the same: `%C3%A9`, `%c3%a9` and `é`.

    /api/search         that path
    /api/users/*/orders `*` is exactly one segment
    /api/**             `**`, at the end, is any number of segments, none included
"""

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from operator import itemgetter
from posixpath import normpath
from urllib.parse import quote, unquote_to_bytes


class Wildcard(Enum):
    """A segment of a pattern that stands for others. It never equals text: `%2A` is a literal star."""

    SEGMENT = "*"
    REST = "**"


Segment = str | Wildcard
"""A segment of a pattern: decoded text, or a wildcard."""

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_ESCAPED_SYNTAX = (("%3B", ";"), ("%3b", ";"), ("%2E", "."), ("%2e", "."))
_BARE_SEGMENT = re.compile("/([^/;]+)")


def pattern_segments(pattern: str) -> list[Segment]:
    """The segments of a pattern. Raises ValueError with a sentence."""
    if not pattern.startswith("/"):
        raise ValueError("must begin with /")
    found = [_segment(text) for text in pattern.split("/") if text]
    if Wildcard.REST in found[:-1]:
        raise ValueError("must have ** at its end only")
    return found


def _segment(text: str) -> Segment:
    if text in {"*", "**"}:
        return Wildcard(text)
    if "*" in text:
        raise ValueError(
            "must be made of plain segments, * for one segment and ** for the rest (%2A is a literal *)"
        )
    if "?" in text or "#" in text:
        raise ValueError("must have neither a query nor a fragment (%3F is a literal ?, %23 a literal #)")
    if blank := _BLANK.search(text):
        raise ValueError(f"must have {quote(blank[0])} in place of {blank[0]!r}")
    if _BAD_ESCAPE.search(text):
        raise ValueError("must have two hexadecimal digits after each % (%25 is a literal %)")
    return decoded(text)


def decoded(text: str) -> str:
    """A segment with its escapes decoded. Bytes that are not UTF-8 become surrogate escapes (PEP 383)."""
    raw = unquote_to_bytes(text.encode(errors="surrogateescape"))  # unquote() takes twice as long
    return raw.decode(errors="surrogateescape")


def has_parameters(path: str) -> bool:
    """Whether a segment of a path has parameters, which begin with `;` or `%3B`."""
    return ";" in path or ("%3" in path and ("%3B" in path or "%3b" in path))


def segments_without_parameters(path: str) -> Iterable[str]:
    """The segments of a path, each without its parameters (RFC 3986 section 3.3).

    They are found one by one, as a client may send thousands and a lookup needs the first few. Dot segments
    are resolved, because Envoy leaves those with parameters: `/x/..;/y`, which some backends read as `/y`.
    """
    path = "/" + path
    for escape, character in _ESCAPED_SYNTAX:
        path = path.replace(escape, character)
    if "/." in path:
        return normpath("/" + "/".join(_BARE_SEGMENT.findall(path))).split("/")
    return map(itemgetter(1), _BARE_SEGMENT.finditer(path))


def covers(wide: Sequence[Segment], narrow: Sequence[Segment]) -> bool:
    """Whether every path that the pattern `narrow` matches is also matched by `wide`. Both are segments."""
    for at, segment in enumerate(wide):
        if segment is Wildcard.REST:
            return True
        if at == len(narrow) or narrow[at] is Wildcard.REST:
            return False
        if segment not in {Wildcard.SEGMENT, narrow[at]}:
            return False
    return len(wide) == len(narrow)

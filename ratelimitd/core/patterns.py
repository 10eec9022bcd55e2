"""Path patterns, and paths as they are compared with them.

A path is the list of its segments, the parts between slashes. Empty segments do not count, so neither a
trailing slash nor a doubled one takes a request out of its route. Case counts, as it does in Envoy's routes.
Segments are compared decoded, so every encoding of a character is the same: `%C3%A9`, `%c3%a9` and `é`.

    /api/search         that path
    /api/users/*/orders `*` is exactly one segment
    /api/**             `**`, at the end, is any number of segments, none included
"""

import re
from collections.abc import Sequence
from enum import Enum
from urllib.parse import quote, unquote


class Wildcard(Enum):
    """A segment of a pattern that stands for others. It never equals text: `%2A` is a literal star."""

    SEGMENT = "*"
    REST = "**"


Segment = str | Wildcard
"""A segment of a pattern: decoded text, or a wildcard."""

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
# The optional slash makes one match of a run such as /;/;/;, which a client may send by the thousand.
_PARAMETERS = re.compile(r"(?:/?(?:;|%3[Bb])[^/]*)+")


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
    return unquote(text, errors="surrogateescape")


def has_parameters(path: str) -> bool:
    """Whether `without_parameters` may change a path. `%3` is also the beginning of other characters."""
    return ";" in path or "%3" in path


def without_parameters(path: str) -> str:
    """A path without the parameters of its segments (RFC 3986 section 3.3), which begin with `;` or `%3B`.

    Dot segments are resolved, because Envoy leaves those with parameters: `/x/%2e%2e;/y` arrives as
    `/x/..;/y`.
    """
    bare = _PARAMETERS.sub("", path)
    if "/." not in bare:
        return bare
    kept: list[str] = []
    for segment in bare.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment and segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


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

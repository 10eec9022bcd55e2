"""Path patterns. The first pattern that matches wins, found in the depth of the path and not by a scan.

A path is the list of its segments, the parts between slashes. Empty segments do not count, so neither a
trailing slash nor a doubled one takes a request out of its route. Case counts, as it does in Envoy's routes.

    /api/search         that path
    /api/users/*/orders `*` is exactly one segment
    /api/**             `**`, at the end, is any number of segments, none included
"""

import re
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

ANY_SEGMENT = "*"
ANY_REST = "**"

_LITERAL = re.compile(r"[^*?#\s\x00-\x1f\x7f]+")


class Matchable(Protocol):
    """A rule that a table can hold."""

    @property
    def pattern(self) -> str:
        """The pattern of the paths that it matches, as `pattern_segments` reads it."""
        ...

    @property
    def methods(self) -> frozenset[str] | None:
        """The methods that it matches, upper-case; None matches every method."""
        ...


R = TypeVar("R", bound=Matchable)


def segments(path: str) -> list[str]:
    """The segments of a path."""
    return [segment for segment in path.split("/") if segment]


def pattern_segments(pattern: str) -> list[str]:
    """The segments of a pattern. Raises ValueError with a sentence."""
    if not pattern.startswith("/"):
        raise ValueError("must begin with /")
    found = segments(pattern)
    for segment in found[:-1]:
        if segment == ANY_REST:
            raise ValueError("must have ** at its end only")
    for segment in found:
        if segment not in {ANY_SEGMENT, ANY_REST} and not _LITERAL.fullmatch(segment):
            raise ValueError(
                f"must be made of plain segments, * for one segment and ** for the rest, got {segment!r}"
            )
    return found


def covers(wide: Sequence[str], narrow: Sequence[str]) -> bool:
    """Whether every path that the pattern `narrow` matches is also matched by `wide`. Both are segments."""
    for at, segment in enumerate(wide):
        if segment == ANY_REST:
            return True
        if at == len(narrow) or narrow[at] == ANY_REST:
            return False
        if segment not in {ANY_SEGMENT, narrow[at]}:
            return False
    return len(wide) == len(narrow)


class _Entry(NamedTuple, Generic[R]):
    """A rule and its position among all."""

    at: int
    methods: frozenset[str] | None
    rule: R


class _Node(Generic[R]):
    """A node of the tree: its children, the rules that end here, and those that take any rest."""

    __slots__ = ("any_segment", "ends", "literal", "rest")

    def __init__(self) -> None:
        self.literal: dict[str, _Node[R]] = {}
        self.any_segment: _Node[R] | None = None
        self.ends: list[_Entry[R]] = []
        self.rest: list[_Entry[R]] = []


class RouteTable(Generic[R]):
    """Rules by path and method. Raises ValueError for an invalid pattern."""

    def __init__(self, rules: Iterable[R] = ()) -> None:
        self.rules = tuple(rules)
        self._root: _Node[R] = _Node()
        for at, rule in enumerate(self.rules):
            self._add(_Entry(at, rule.methods, rule))

    def __len__(self) -> int:
        return len(self.rules)

    def _add(self, entry: _Entry[R]) -> None:
        node = self._root
        for segment in pattern_segments(entry.rule.pattern):
            if segment == ANY_REST:
                node.rest.append(entry)
                return
            if segment == ANY_SEGMENT:
                node.any_segment = node.any_segment or _Node()
                node = node.any_segment
            else:
                node = node.literal.setdefault(segment, _Node())
        node.ends.append(entry)

    def find(self, method: str, path: str) -> R | None:
        """The first rule for a path without query, or None."""
        best: _Entry[R] | None = None
        nodes = [self._root]
        for segment in path.split("/"):
            if not segment:
                continue
            following = []
            for node in nodes:
                if node.rest:
                    best = _earlier(best, node.rest, method)
                literal = node.literal.get(segment)
                if literal is not None:
                    following.append(literal)
                if node.any_segment is not None:
                    following.append(node.any_segment)
            if not following:
                break
            nodes = following
        else:
            for node in nodes:
                best = _earlier(best, node.ends, method)
                best = _earlier(best, node.rest, method)
        return None if best is None else best.rule


def _earlier(best: _Entry[R] | None, entries: list[_Entry[R]], method: str) -> _Entry[R] | None:
    for entry in entries:
        if best is not None and entry.at > best.at:
            break
        if entry.methods is None or method in entry.methods:
            return entry
    return best

"""The first rule whose pattern matches a path, found in the depth of the path and not by a scan."""

from collections.abc import Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar

from ratelimitd.core.patterns import Wildcard, decoded, pattern_segments, segments_without_parameters


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
        self._longest = 0  # characters of the longest literal, each byte of it encoded
        for at, rule in enumerate(self.rules):
            self._add(_Entry(at, rule.methods, rule))

    def __len__(self) -> int:
        return len(self.rules)

    def _add(self, entry: _Entry[R]) -> None:
        node = self._root
        for segment in pattern_segments(entry.rule.pattern):
            if segment is Wildcard.REST:
                node.rest.append(entry)
                return
            if isinstance(segment, str):
                node = node.literal.setdefault(segment, _Node())
                encoded = 3 * len(segment.encode(errors="surrogateescape"))
                self._longest = max(self._longest, encoded)
            else:
                node.any_segment = node.any_segment or _Node()
                node = node.any_segment
        node.ends.append(entry)

    def find(self, method: str, path: str, *, parameters: bool = True) -> R | None:
        """The first rule for a path without query, or None.

        Args:
            method: as the client sent it.
            path: as Envoy sends it.
            parameters: path parameters are part of the segments; otherwise they are left out.
        """
        best: _Entry[R] | None = None
        nodes = [self._root]
        segments: Iterable[str] = path.split("/") if parameters else segments_without_parameters(path)
        if "%" in path:
            segments = map(self._comparable, segments)
        for segment in segments:
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

    def _comparable(self, segment: str) -> str:
        """A segment of a path, decoded unless it is longer than any literal, since decoding takes time."""
        return decoded(segment) if "%" in segment and len(segment) <= self._longest else segment


def _earlier(best: _Entry[R] | None, entries: list[_Entry[R]], method: str) -> _Entry[R] | None:
    for entry in entries:
        if best is not None and entry.at > best.at:
            break
        if entry.methods is None or method in entry.methods:
            return entry
    return best

"""Tests of path patterns and route tables."""

from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimitd.core.patterns import (
    Segment,
    Wildcard,
    covers,
    pattern_segments,
    segments_without_parameters,
)
from ratelimitd.core.routes import RouteTable
from tests.line_count import lines_run


@dataclass(frozen=True)
class Rule:
    """A pattern, and the methods that it matches; None: all methods."""

    pattern: str
    methods: frozenset[str] | None = None


def matches_simply(pattern: list[str], path: list[str]) -> bool:
    """Returns whether a pattern matches a path, straight from the definition."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return True
    same = bool(path) and (pattern[0] == "*" or decoded(pattern[0]) == decoded(path[0]))
    return same and matches_simply(pattern[1:], path[1:])


def decoded(segment: str) -> str:
    """Returns a segment with its escapes decoded."""
    return unquote(segment, errors="surrogateescape")


def split(path: str) -> list[str]:
    """Returns the segments of a path that are not empty."""
    return [*filter(None, path.split("/"))]


SEGMENTS = st.sampled_from(["a", "b", "*", "é", "%C3%A9", "%2a"])
PATTERNS = st.builds(
    lambda segments, rest: "/" + "/".join(segments + rest),
    st.lists(SEGMENTS, max_size=3),
    st.sampled_from([[], ["**"]]),
)
METHODS = st.sampled_from(["GET", "POST"])
RULES = st.builds(Rule, PATTERNS, st.none() | st.frozensets(METHODS))
LIKELY_PATHS = st.lists(st.sampled_from(["a", "b", "%61", "%c3%A9"]), max_size=3).map("/".join)
OTHER_SEGMENTS = ["a", "b", "c", "*", "**", "", "%62", "é", "%C3%A9", "%2A", "%2a", "%", "%2F", "%E9"]
PATHS = LIKELY_PATHS | st.lists(st.sampled_from(OTHER_SEGMENTS), max_size=6).map("/".join)


@given(st.lists(RULES, max_size=8), METHODS | st.just("HEAD"), PATHS | st.text())
@example([Rule("/a/b"), Rule("/*/c")], "GET", "/a/c")
@example([Rule("/**"), Rule("/a/*"), Rule("/*/b")], "GET", "/a/b")
@example([Rule("/*/b"), Rule("/a/**"), Rule("/a/b")], "GET", "/a/b")
def test_the_table_finds_the_first_matching_rule(rules: list[Rule], method: str, path: str) -> None:
    expected = next(
        (
            rule
            for rule in rules
            if (rule.methods is None or method in rule.methods)
            and matches_simply(split(rule.pattern), split(path))
        ),
        None,
    )
    assert RouteTable(rules).find(method, path) is expected


@given(PATTERNS, PATTERNS, PATHS)
def test_a_covering_pattern_matches_all_paths_of_the_covered_one(wide: str, narrow: str, path: str) -> None:
    if covers(pattern_segments(wide), pattern_segments(narrow)) and matches_simply(
        split(narrow), split(path)
    ):
        assert matches_simply(split(wide), split(path))


@given(PATTERNS, PATTERNS)
def test_a_pattern_that_is_not_covered_matches_a_path_of_its_own(wide: str, narrow: str) -> None:
    """One of three sample paths shows it."""
    segments = pattern_segments(narrow)
    samples = []
    for rest in ([], ["new"] * 1, ["new"] * 9):
        body: list[Segment] = segments
        if segments[-1:] == [Wildcard.REST]:
            body = [*segments[:-1], *rest]
        samples.append([segment if isinstance(segment, str) else "new" for segment in body])
    assert all(matches_simply(split(narrow), sample) for sample in samples)
    covered = all(matches_simply(split(wide), sample) for sample in samples)
    assert covers(pattern_segments(wide), segments) is covered


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/api/search", "/api/search", True),
        ("/api/search", "/api/search/", True),
        ("/api/search", "//api//search", True),
        ("/api/search", "/api/Search", False),
        ("/api/search", "/api/search/x", False),
        ("/api/users/*/orders", "/api/users/7/orders", True),
        ("/api/users/*/orders", "/api/users//orders", False),
        ("/api/users/*/orders", "/api/users/7/8/orders", False),
        ("/api/**", "/api", True),
        ("/api/**", "/api/a/b/c", True),
        ("/api/**", "/apix", False),
        ("/**", "/", True),
        ("/**", "", True),
        ("/", "/", True),
        ("/", "/a", False),
        ("/api/*", "/api/*", True),
        ("/api/%2A", "/api/*", True),
        ("/api/%2A", "/api/a", False),
        ("/api/%2A%2A", "/api/a/b", False),
        ("/api/café", "/api/caf%C3%A9", True),
        ("/api/café", "/api/caf%c3%a9", True),
        ("/api/café", "/api/café", True),
        ("/api/caf%C3%A9", "/api/café", True),
        ("/api/na%C3%AFve", "/api/na%c3%afve", True),
        ("/api/na%c3%afve", "/api/na%C3%AFve", True),
        ("/api/caf%E9", "/api/caf%e9", True),
        ("/api/café", "/api/caf%E9", False),
        ("/api/%73earch", "/api/search", True),
        ("/api/search", "/api/%73%65%61%72%63%68", True),
        ("/api/%7euser", "/api/~user", True),
        ("/api/{id}", "/api/%7Bid%7D", True),
        ("/api/%7Bid%7D", "/api/{id}", True),
        ("/api/a%20b", "/api/a%20b", True),
        ("/api/a%2Fb", "/api/a%2fb", True),
        ("/api/a%2Fb", "/api/a/b", False),
        ("/api/a%25b", "/api/a%25b", True),
        ("/api/a%2541", "/api/aA", False),
        ("/api/日本", "/api/%e6%97%a5%E6%9C%AC", True),
        ("/api/search", "/api/%53earch", False),
        ("/api/café", "/api/caf%C3\udca9", True),
        ("/api/caf%E9", "/api/caf\udce9", True),
    ],
)
def test_a_pattern_matches_as_documented(pattern: str, path: str, matches: bool) -> None:  # noqa: FBT001 - the expectation
    assert (RouteTable([Rule(pattern)]).find("GET", path) is not None) is matches


@pytest.mark.parametrize(
    "pattern",
    ["", "api", "/a b", "/**/a", "/a*", "/***", "/a?b", "/a#b", "/a\n", "/%", "/%4", "/%zz", "/%4/a"],
)
def test_an_invalid_pattern_is_rejected(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        RouteTable([Rule(pattern)])


@pytest.mark.parametrize(
    ("path", "bare"),
    [
        ("/api/search;v=1", "/api/search"),
        ("/api/search;", "/api/search"),
        ("/api/search%3Bv=1", "/api/search"),
        ("/api/search%3bv=1", "/api/search"),
        ("/api/search;v=1;w=2", "/api/search"),
        ("/api/search;v=1/", "/api/search/"),
        ("/api//search//;v=1//", "/api//search///"),
        ("/api;x/search", "/api/search"),
        ("/api/;x/search", "/api/search"),
        (";x/api/search", "/api/search"),
        ("/;x/;y/api/;z/;/search", "/api/search"),
        ("/a;x/;y/..;z/b", "/b"),
        ("/a/;x/../b", "/b"),
        ("/.well-known;x/a", "/.well-known/a"),
        ("/api/search%3D;a", "/api/search%3D"),
        ("/api/search%253Bv=1", "/api/search%253Bv=1"),
        ("/api/x/..;/search", "/api/search"),
        ("/api/..;/..;/..;/search", "/search"),
        ("/api/.;/search", "/api/search"),
        ("/api/x/%2e%2E;/search", "/api/search"),
        ("/api/%2e%3Bx/search", "/api/search"),
        ("/../..;/search", "/search"),
        ("/api/...;/search", "/api/.../search"),
        ("/api/x;v=../search", "/api/x/search"),
        ("/;", ""),
        ("/..;", ""),
        ("", ""),
    ],
)
def test_parameters_are_removed_and_dot_segments_resolved(path: str, bare: str) -> None:
    assert [*filter(None, segments_without_parameters(path))] == split(bare)


@pytest.mark.parametrize("unit", ["/;", "/a;", ";", "/;a", "/%3B", "/a%3bx=1", "//;", "/..;", "/a/..;"])
def test_no_number_of_parameters_makes_a_lookup_long(unit: str) -> None:
    table = RouteTable([Rule("/api/search"), Rule("/shop/**")])
    for path in (f"/api{unit * 10_000}", f"/shop{unit * 10_000}"):
        assert lines_run(partial(table.find, "GET", path, parameters=False)) < 100


def test_the_depth_of_the_routes_limits_the_cost_of_a_lookup() -> None:
    """A client chooses the path, so neither a long path nor many matching wildcards may be expensive."""
    choices = [f"{number:010b}".replace("0", "*").replace("1", "a") for number in range(1000)]
    table = RouteTable([Rule("/" + "/".join(choice)) for choice in choices])
    assert table.find("GET", "/a" * 50_000) is None
    assert lines_run(lambda: table.find("GET", "/a" * 50_000)) < 20_000
    assert lines_run(lambda: table.find("GET", "/%61" * 50_000)) < 20_000
    assert lines_run(lambda: table.find("GET", "/" + "%61" * 50_000)) < 100
    assert table.find("GET", "/a" * 9 + "/b") is not None
    assert lines_run(lambda: table.find("GET", "/a" * 9 + "/b")) < 20_000


def test_a_table_lists_its_rules_in_order() -> None:
    rules = [Rule("/a"), Rule("/b")]
    assert (RouteTable(rules).rules, len(RouteTable(rules))) == (tuple(rules), 2)

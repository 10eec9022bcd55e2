"""Tests of path patterns and route tables."""

from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimitd.core.routes import RouteTable, covers, pattern_segments
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
    return bool(path) and pattern[0] in {"*", path[0]} and matches_simply(pattern[1:], path[1:])


def split(path: str) -> list[str]:
    """Returns the segments of a path that are not empty."""
    return [*filter(None, path.split("/"))]


SEGMENTS = st.sampled_from(["a", "b", "*"])
PATTERNS = st.builds(
    lambda segments, rest: "/" + "/".join(segments + rest),
    st.lists(SEGMENTS, max_size=3),
    st.sampled_from([[], ["**"]]),
)
METHODS = st.sampled_from(["GET", "POST"])
RULES = st.builds(Rule, PATTERNS, st.none() | st.frozensets(METHODS))
LIKELY_PATHS = st.lists(st.sampled_from(["a", "b"]), max_size=3).map("/".join)
PATHS = LIKELY_PATHS | st.lists(st.sampled_from(["a", "b", "c", "*", "**", ""]), max_size=6).map("/".join)


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
        body = [*segments[:-1], *rest] if segments[-1:] == ["**"] else segments
        samples.append(["new" if segment == "*" else segment for segment in body])
    assert all(matches_simply(segments, sample) for sample in samples)
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
        ("/api/%20/é", "/api/%20/é", True),
        ("/api/*", "/api/*", True),
    ],
)
def test_a_pattern_matches_as_documented(pattern: str, path: str, matches: bool) -> None:  # noqa: FBT001 - the expectation
    assert (RouteTable([Rule(pattern)]).find("GET", path) is not None) is matches


@pytest.mark.parametrize("pattern", ["", "api", "/a b", "/**/a", "/a*", "/***", "/a?b", "/a#b", "/a\n"])
def test_an_invalid_pattern_is_rejected(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        RouteTable([Rule(pattern)])


def test_the_depth_of_the_routes_limits_the_cost_of_a_lookup() -> None:
    """A client chooses the path, so neither a long path nor many matching wildcards may be expensive."""
    choices = [f"{number:010b}".replace("0", "*").replace("1", "a") for number in range(1000)]
    table = RouteTable([Rule("/" + "/".join(choice)) for choice in choices])
    assert table.find("GET", "/a" * 50_000) is None
    assert lines_run(lambda: table.find("GET", "/a" * 50_000)) < 20_000
    assert table.find("GET", "/a" * 9 + "/b") is not None
    assert lines_run(lambda: table.find("GET", "/a" * 9 + "/b")) < 20_000


def test_a_table_lists_its_rules_in_order() -> None:
    rules = [Rule("/a"), Rule("/b")]
    assert (RouteTable(rules).rules, len(RouteTable(rules))) == (tuple(rules), 2)

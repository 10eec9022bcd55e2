"""Path patterns: what each matches, that the first wins, and what covers what."""

from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimitd.core.routes import RouteTable, covers, pattern_segments
from tests.line_count import lines_run


@dataclass(frozen=True)
class Rule:
    """A pattern, and the methods it is for."""

    pattern: str
    methods: frozenset[str] | None = None


def naive(pattern: list[str], path: list[str]) -> bool:
    """Whether a pattern matches a path, by its definition."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return True
    return bool(path) and pattern[0] in {"*", path[0]} and naive(pattern[1:], path[1:])


def split(path: str) -> list[str]:
    """The segments of a path that are not empty."""
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
def test_the_first_rule_that_matches_is_found(rules: list[Rule], method: str, path: str) -> None:
    """As a scan from the top would find it."""
    expected = next(
        (
            rule
            for rule in rules
            if (rule.methods is None or method in rule.methods) and naive(split(rule.pattern), split(path))
        ),
        None,
    )
    assert RouteTable(rules).find(method, path) is expected


@given(PATTERNS, PATTERNS, PATHS)
def test_what_a_covered_pattern_matches_its_cover_matches_too(wide: str, narrow: str, path: str) -> None:
    """For every path."""
    if covers(pattern_segments(wide), pattern_segments(narrow)) and naive(split(narrow), split(path)):
        assert naive(split(wide), split(path))


@given(PATTERNS, PATTERNS)
def test_a_pattern_that_is_not_covered_matches_a_path_that_the_other_does_not(wide: str, narrow: str) -> None:
    """So nothing is said to be reachable that is not: one of four sample paths shows it."""
    segments = pattern_segments(narrow)
    samples = []
    for rest in ([], ["new"] * 1, ["new"] * 9):
        body = [*segments[:-1], *rest] if segments[-1:] == ["**"] else segments
        samples.append(["new" if segment == "*" else segment for segment in body])
    assert all(naive(segments, sample) for sample in samples)
    covered = all(naive(split(wide), sample) for sample in samples)
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
def test_a_pattern_matches_what_operators_expect(pattern: str, path: str, matches: bool) -> None:  # noqa: FBT001 - the expectation
    """The examples of the documentation."""
    assert (RouteTable([Rule(pattern)]).find("GET", path) is not None) is matches


@pytest.mark.parametrize("pattern", ["", "api", "/a b", "/**/a", "/a*", "/***", "/a?b", "/a#b", "/a\n"])
def test_what_is_no_pattern_is_refused_with_a_sentence(pattern: str) -> None:
    """It says what a pattern must be."""
    with pytest.raises(ValueError, match=r"^must "):
        RouteTable([Rule(pattern)])


def test_the_work_for_a_path_is_bounded_by_the_depth_of_the_routes() -> None:
    """A client chooses the path: neither its length nor wildcards at every step may cost much."""
    choices = [f"{number:010b}".replace("0", "*").replace("1", "a") for number in range(1000)]
    table = RouteTable([Rule("/" + "/".join(choice)) for choice in choices])
    assert table.find("GET", "/a" * 50_000) is None
    assert lines_run(lambda: table.find("GET", "/a" * 50_000)) < 20_000
    assert table.find("GET", "/a" * 9 + "/b") is not None
    assert lines_run(lambda: table.find("GET", "/a" * 9 + "/b")) < 20_000


def test_a_table_knows_its_rules() -> None:
    """In order, and how many."""
    rules = [Rule("/a"), Rule("/b")]
    assert (RouteTable(rules).rules, len(RouteTable(rules))) == (tuple(rules), 2)

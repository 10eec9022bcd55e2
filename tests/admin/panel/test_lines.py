"""Lines of problems in a policy text, in each notation of the text."""

import json

import pytest

from ratelimitd.admin.panel.lines import placed
from ratelimitd.errors import PolicyError
from ratelimitd.policy.text import parse
from ratelimitd.policy.yaml_reader import MAX_DEPTH

WRONG = """\
# a comment
tiers:
  global: {capacity: 500, refill_rate: 50}
  user:
    capacity: 0
    rate: 300/min
  user_api: {capacity: 20}
routes:
  - path: /api/a
    methods:
      - GET
      - get
  - path: /api/b

    cost: -1
overrides:
  users:
    "a.b": {blocked: perhaps}
"""


def found(text: str) -> dict[str, int | None]:
    """Returns the lines of the problems of a text, by path."""
    with pytest.raises(PolicyError) as refused:
        parse(text)
    return {problem.path: problem.line for problem in placed(text, refused.value.problems)}


def test_each_problem_has_its_line() -> None:
    """A missing key has the line of its parent."""
    assert found(WRONG) == {
        "tiers.user.capacity": 5,
        "tiers.user_api.rate": 7,
        "routes[0].methods[1]": 12,
        "routes[1].cost": 15,
        "overrides.users.a.b.blocked": 18,
    }


def test_problems_in_json_have_lines() -> None:
    text = '{"tiers": {\n "global": "off",\n "user": "off",\n "user_api": {"capacity": 0, "refill_rate": 1}}}'
    assert found(text) == {"tiers.user_api.capacity": 4}
    assert set(found(json.dumps(json.loads(text))).values()) == {1}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tiers:\n  global: [", 3),  # where its end is missed
        ('{"tiers":\n "a" "b"}', 2),
        ("tiers:\n  ? [a]\n  : b", 2),
        ("", None),
        ("7", None),
        ("[" * (MAX_DEPTH + 1), None),
        ("[[" * 100_000, None),
        ("tiers: &a {b: *a}", None),
    ],
)
def test_a_text_that_cannot_be_read_has_the_line_of_its_error(text: str, line: int | None) -> None:
    assert found(text).get("") == line

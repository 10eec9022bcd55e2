"""Parsing any text into a policy or its problems, and writing a policy in normal form."""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.model import Limit
from ratelimitd.core.tiers import TierName
from ratelimitd.errors import PolicyError
from ratelimitd.policy import yaml_reader
from ratelimitd.policy.advice import advice
from ratelimitd.policy.compile import policy_set
from ratelimitd.policy.document import PolicyDocument
from ratelimitd.policy.field_types import MAX_CHARACTERS
from ratelimitd.policy.flat_form import FlatPolicy
from ratelimitd.policy.normal_form import normal_text
from ratelimitd.policy.overrides import MAX_OVERRIDES
from ratelimitd.policy.problems import MAX_PROBLEMS
from ratelimitd.policy.routes import MAX_METHODS, MAX_ROUTES
from ratelimitd.policy.text import DEFAULT_TEXT, MAX_BYTES, digest_of, parse
from ratelimitd.policy.yaml_reader import plain_scalar
from tests.example_limits import limits_json
from tests.policy.documents import VALID_DOCUMENTS, document, full, problems


def test_the_flat_form_is_read_exactly() -> None:
    tiers = policy_set(parse(limits_json(user_rate=0.25)), "any").tiers
    assert {name: rule.limit for name, rule in tiers.items()} == {
        TierName.GLOBAL: Limit(10, 1.0),
        TierName.USER: Limit(5, 0.25),
        TierName.USER_API: Limit(3, 1.0),
    }


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (limits_json(user_rate=-1), "user_rate: must be 0.000001 or more, got -1"),
        (limits_json(user_rate=0), "user_rate: must be 0.000001 or more, got 0"),
        (limits_json(user_capacity=0), "user_capacity: must be 1 or more, got 0"),
        (limits_json(user_capacity=-5), "user_capacity: must be 1 or more, got -5"),
        (limits_json(user_capacity=1.5), "user_capacity: must be a whole number, got 1.5"),
        (limits_json(user_capacity="5"), "user_capacity: must be a whole number, got '5'"),
        (limits_json(user_capacity=True), "user_capacity: must be a whole number, got true"),
        (limits_json(global_capacity=10**10), "global_capacity: must be 1000000000 or less, got 10000000000"),
        (limits_json(global_capacity=10**400), "global_capacity: must be "),
        (limits_json(user_rate=1e300), "user_rate: must be 1000000000 or less, got 1e+300"),
        (limits_json(user_rate=float("nan")), "user_rate: must be a finite number, got nan"),
        (limits_json(user_rate=float("inf")), "user_rate: must be a finite number, got inf"),
        (limits_json(user_rate="fast"), "user_rate: must be a number, got 'fast'"),
        (limits_json(user_rate=[1]), "user_rate: must be a number, got a list of 1"),
        (limits_json(user_rate=None), "user_rate: must be given"),
        (
            limits_json(user_ratte=1),
            "user_ratte: unknown key; the keys are global_capacity, global_rate, ",
        ),
        ("[]", "must be an object with the keys of a policy, got a list of 0"),
        ("", "must be an object with the keys of a policy, got null"),
        ("{", "must be JSON or YAML; as JSON, line 1, column 2: "),
        ("null", "must be an object with the keys of a policy, got null"),
        (" " * (MAX_BYTES + 1), "must have at most 1048576 bytes, got 1048577"),
    ],
)
def test_a_bad_flat_policy_is_rejected_with_its_reason(bad: str, reason: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse(bad)
    assert reason in str(error.value)


WHOLE = ["1000", "1e3", "1E+03", "1e+3", "1000.0", "1.0e3", "10000e-1"]
IN_YAML = ["+1e3", "1_000", "1_000.0", "1.e3", "1000."]
FULL_FORM = "tiers: {global: {capacity: VALUE, refill_rate: 1}, user: off, user_api: off}"
WITH_COST = "tiers: {global: off, user: off, user_api: off}\nroutes: [{path: /a, cost: VALUE}]"


@pytest.mark.parametrize("value", [*WHOLE, *IN_YAML])
def test_a_whole_number_is_accepted_however_it_is_written(value: str) -> None:
    flat = policy_set(parse(DEFAULT_TEXT.replace("500", value)), "any")
    full = policy_set(parse(FULL_FORM.replace("VALUE", value)), "any")
    routes = policy_set(parse(WITH_COST.replace("VALUE", value)), "any").routes
    assert routes is not None
    capacities = [policy.tiers[TierName.GLOBAL].limit.capacity for policy in (flat, full)]
    assert [(n, type(n)) for n in (*capacities, routes.rules[0].cost)] == [(1000, int)] * 3
    assert (
        normal_text(parse(FULL_FORM.replace("VALUE", value)))
        .splitlines()[1]
        .startswith("  global: {capacity: 1000, ")
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("1.5", "must be a whole number, got 1.5"),
        ("1e-3", "must be a whole number, got 0.001"),
        ("1e400", "must be a whole number, got inf"),
        (".nan", "must be a whole number, got nan"),
        ('"1e3"', "must be a whole number, got '1e3'"),
        ("1e3x", "must be a whole number, got '1e3x'"),
        ("true", "must be a whole number, got true"),
        ("-1.0", "or more, got -1"),
        ("1e+10", "must be 1000000000 or less, got 10000000000"),
    ],
)
def test_any_other_number_is_refused_with_its_reason(value: str, reason: str) -> None:
    for text in (DEFAULT_TEXT.replace("500", value), FULL_FORM.replace("VALUE", value)):
        (problem,) = problems(text)
        assert "global" in problem
        assert problem.endswith(reason)
    (problem,) = problems(WITH_COST.replace("VALUE", value))
    assert problem.startswith("routes[0].cost: ")
    assert problem.endswith(reason)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(PolicyError, match=r"global_rate: .*; user_capacity: "):
        parse(limits_json(global_rate=-1, user_capacity=0))


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists) | st.binary())
def test_no_value_breaks_the_parser(value: Any) -> None:
    with pytest.raises(PolicyError):
        parse(value if isinstance(value, bytes) else json.dumps(value))


def test_the_same_text_has_the_same_digest() -> None:
    assert digest_of(limits_json()) == digest_of(limits_json().encode())
    assert digest_of(limits_json()) != digest_of(limits_json(user_rate=1.0))


def test_the_default_text_is_a_valid_policy() -> None:
    tiers = policy_set(parse(DEFAULT_TEXT), digest_of(DEFAULT_TEXT)).tiers
    assert [rule.limit for rule in tiers.values()] == [Limit(500, 50.0), Limit(100, 5.0), Limit(20, 2.0)]


def test_the_documented_examples_and_bounds_are_true() -> None:
    """The examples are valid and get no advice; the JSON example is the default policy."""
    text = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    examples = re.findall(r"^```(?:yaml|json)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(examples) == 2
    assert [advice(parse(example)) for example in examples] == [(), ()]
    assert parse(examples[0]) == parse(DEFAULT_TEXT)
    rows = dict(re.findall(r"^\| ([a-z, ]+) \| (\d+)", text.split("| at most |")[1], re.MULTILINE))
    bounds = (MAX_BYTES, MAX_ROUTES, MAX_METHODS, MAX_OVERRIDES, MAX_CHARACTERS, MAX_PROBLEMS)
    assert [*map(int, rows.values())] == [*bounds]


@given(VALID_DOCUMENTS)
def test_json_and_yaml_of_the_same_data_are_the_same_policy(data: dict[str, Any]) -> None:
    expected = parse(json.dumps(data))
    for flow in (True, False, None):
        assert parse(yaml.safe_dump(data, allow_unicode=True, default_flow_style=flow)) == expected


def test_a_byte_order_mark_is_ignored() -> None:
    """The user id has a pair of surrogates in JSON, which YAML does not have."""
    data = document(overrides={"users": {"\U0001f600": {"exempt": True}}})
    assert parse("\ufeff" + json.dumps(data)) == parse(json.dumps(data))
    assert parse("\ufeff" + yaml.safe_dump(data)) == parse(json.dumps(data))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("+1_000", 1000),
        ("-3", -3),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("off", False),
        ("On", True),
        ("NO", False),
        ("~", None),
        ("", None),
        ("010", "010"),
        ("0x1F", "0x1F"),
        ("1:30", "1:30"),
        ("2001-01-01", "2001-01-01"),
        ("oFF", "oFF"),
        ("1__0", "1__0"),
        ("9" * 500, "9" * 500),
        ("100/min", "100/min"),
    ],
)
def test_an_unquoted_value_is_text_where_yaml_readers_disagree(text: str, value: Any) -> None:
    assert (plain_scalar(text), type(plain_scalar(text))) == (value, type(value))


def test_a_key_is_its_text_as_written() -> None:
    policy = parse(
        "tiers: {global: off, user: off, user_api: off}\n"
        "overrides: {users: {007: {}, 1.10: {}, yes: {}, 2001-01-01: {}, null: {}}, context: {plan: {1: {}}}}"
    )
    assert isinstance(policy, PolicyDocument)
    assert [*policy.overrides.users] == ["007", "1.10", "yes", "2001-01-01", "null"]
    assert [*policy.overrides.context["plan"]] == ["1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"user_rate": 1, "user_rate": 2}', ["user_rate: must be given once, not twice"]),
        (
            '{"overrides": {"users": {"a": {}, "a": {}}}, "routes": [{}, {"cost": 1, "cost": 2}]}',
            [
                "overrides.users.a: must be given once, not twice",
                "routes[1].cost: must be given once, not twice",
            ],
        ),
        (
            "overrides:\n  users:\n    a: {}\n    a: {}\nroutes:\n- path: /a\n- cost: 1\n  cost: 2\n",
            [
                "overrides.users.a: must be given once, not again on line 4",
                "routes[1].cost: must be given once, not again on line 8",
            ],
        ),
        (
            "routes: &all [1]\ntiers: {user: *all}\nshadow: !!python/name:os.system x\n",
            [
                "tiers.user: must have no alias, got *all: repeat the value instead (line 2)",
                "shadow: must have no tag, got tag:yaml.org,2002:python/name:os.system (line 3)",
            ],
        ),
        ("? [a]\n: 1\n", ["must have text for each key; line 1 has a list or object"]),
        ("a: 1\n---\nb: 2\n", ["must be one document; line 2 begins another"]),
        ("a: 'b", ["must be JSON or YAML; line 1, column 6: found unexpected end of stream"]),
        (b"\xff\xfe{", ["must be text in UTF-8"]),
        ("{\ud800}", ["must be text in UTF-8"]),
        ('{"user_rate": "\\ud800"}', ["must be text without halves of surrogate pairs"]),
        ("a: \x00", ["must be JSON or YAML; control characters are not allowed"]),
        ("[" * 1000, ["must be nested at most 32 deep"]),
        ('{"a":' * 200_000, ["must be nested at most 32 deep"]),
        ("{}", ["must have tiers, or all six of global_capacity, global_rate, user_capacity, "]),
    ],
)
def test_text_that_is_not_plain_data_is_rejected_with_its_place(
    text: str | bytes, expected: list[str]
) -> None:
    found = problems(text)
    assert len(found) == len(expected)
    for one, start in zip(found, expected, strict=True):
        assert one.startswith(start)


def test_flow_yaml_may_begin_like_json() -> None:
    text = "{tiers: {global: off, user: off, user_api: off}} # all off"
    assert isinstance(parse(text), PolicyDocument)


def test_nested_aliases_are_not_expanded() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]
    assert "must have no alias" in problems("\n".join(lines))[0]


@pytest.mark.parametrize("character", ["\\U00110000", "\\UFFFFFFFF"])
def test_an_escape_beyond_unicode_is_rejected_with_both_yaml_loaders(
    monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    """PyYAML's Python loader raises ValueError or OverflowError."""
    for loader in (yaml.CSafeLoader, yaml.SafeLoader):
        monkeypatch.setattr(yaml_reader, "_LOADER", loader)
        assert problems(f'a: "{character}"')[0].startswith("must be JSON or YAML; ")


YAML_BITS = st.sampled_from(
    [*"{}[]:,-?&*!|>'\"%@`#~ \n\t\x00\\", "a", "1", "tiers", "routes: ", "- ", ": ", "\\U1"]
)


@given(st.lists(YAML_BITS, max_size=60).map("".join) | st.text() | st.binary())
@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_any_text_is_a_policy_or_a_policy_error(loader: str, text: str | bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_reader, "_LOADER", getattr(yaml, loader))
        with pytest.raises(PolicyError):
            parse(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(VALID_DOCUMENTS, st.data(), VALUES)
def test_any_value_anywhere_in_a_policy_is_accepted_or_rejected(
    policy: dict[str, Any], data: st.DataObject, value: Any
) -> None:
    place: Any = policy
    while True:
        keys = [*place] if isinstance(place, dict) else [*range(len(place))]
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = value
    for text in (json.dumps(policy), yaml.safe_dump(policy)):
        for problem in problems(text):
            assert problem.isprintable()


def test_overrides_are_read_in_linear_time() -> None:
    for dump in (json.dumps, lambda data: yaml.dump(data, Dumper=yaml.CSafeDumper)):
        text = dump(_with_overrides(10_000))
        assert len(text) <= MAX_BYTES
        few, many = _calls(dump(_with_overrides(1000))), _calls(text)
        assert many < 11 * few


def _with_overrides(count: int) -> dict[str, Any]:
    users = {f"user{number}": {"user": {"capacity": 1000, "refill_rate": 5}} for number in range(count)}
    return document(overrides={"users": users})


def _calls(text: str) -> int:
    """Counts the function calls that parsing a text makes."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        parse(text)
    finally:
        sys.setprofile(before)
    return calls


NORMAL = """\
tiers:
  global: {capacity: 500, refill_rate: 50, lease: auto}
  user: {capacity: 100, rate: 100/min, shadow: true}
  user_api: off
routes:
  - path: /api/users/*/orders
    methods: [GET, POST]
    api: orders
    cost: 5
    user_api: {capacity: 10, refill_rate: 0.5}
    on_store_error: deny
  - path: /api/status
    exempt: true
overrides:
  users:
    "007": {}
    alice:
      user: {capacity: 1000, refill_rate: 100}
    "yes":
      blocked: true
  addresses:
    "2001:db8::/64":
      exempt: true
  headers:
    x-plan:
      gold:
        shadow: true
"""


def test_policies_with_the_same_meaning_have_the_same_normal_text() -> None:
    policy = full(
        shadow=False,
        overrides={
            "headers": {"x-plan": {"gold": {"shadow": True}}, "x-none": {}},
            "addresses": {"2001:DB8::9": {"exempt": True, "blocked": False}},
            "users": {
                "yes": {"blocked": True},
                "alice": {"user": {"rate": "6000/min", "capacity": 1000}},
                "007": {},
            },
        },
        routes=[
            {
                "path": "/api/users/*/orders",
                "methods": ["POST", "GET", "POST"],
                "api": "orders",
                "cost": 5,
                "user_api": {"capacity": 10, "rate": "30/min"},
                "on_store_error": "deny",
            },
            {"path": "/api/status", "api": "/api/status", "exempt": True, "cost": 1},
        ],
        tiers={
            "user_api": False,
            "user": {"capacity": 100, "refill_rate": 100 / 60, "shadow": True},
            "global": {"lease": "auto", "capacity": 500, "refill_rate": 50.0},
        },
    )
    assert normal_text(policy) == NORMAL


def test_both_forms_of_the_same_limits_have_the_same_normal_text() -> None:
    assert normal_text(parse(DEFAULT_TEXT)) == normal_text(full())


@given(VALID_DOCUMENTS)
def test_the_normal_text_means_the_same_policy(data: dict[str, Any]) -> None:
    """It is its own normal text, and PyYAML alone reads the same data from it."""
    policy = parse(json.dumps(data))
    text = normal_text(policy)
    again = parse(text)
    assert normal_text(again) == text
    assert _rules(again) == _rules(policy)
    assert parse(json.dumps(yaml.safe_load(text), default=str)) == again


def _rules(policy: FlatPolicy | PolicyDocument) -> object:
    """Returns the rules of a compiled policy without the names, in which addresses keep their spelling."""
    made = policy_set(policy, "")
    return (
        made.shadow,
        [(name, repr(rule)) for name, rule in made.tiers.items()],
        [asdict(route) for route in (made.routes.rules if made.routes else ())],
        sorted((key, repr(one).split("limits=", 1)[1]) for key, one in made.by_identity.items()),
        [(name, sorted(map(repr, values.values()))) for name, values in made.by_header.items() if values],
        [(name, sorted(map(repr, values.values()))) for name, values in made.by_context.items() if values],
    )

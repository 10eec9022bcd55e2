"""Policies for tests, and strategies that generate them."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

from ratelimitd.errors import PolicyError
from ratelimitd.policy.document import PolicyDocument
from ratelimitd.policy.text import parse

TIERS: dict[str, Any] = {
    "global": {"capacity": 500, "refill_rate": 50},
    "user": {"capacity": 100, "refill_rate": 5},
    "user_api": {"capacity": 20, "refill_rate": 2},
}


def document(**parts: Any) -> dict[str, Any]:
    """Returns a policy in the full form as plain data. `parts` are added to `tiers`, or replace it."""
    return {"tiers": copy.deepcopy(TIERS)} | parts


def full(**parts: Any) -> PolicyDocument:
    """Returns the same policy, parsed."""
    policy = parse(json.dumps(document(**parts)))
    assert isinstance(policy, PolicyDocument)
    return policy


def problems(text: str | bytes | dict[str, Any]) -> list[str]:
    """Returns the problems of a policy; none when it is valid."""
    try:
        parse(json.dumps(text) if isinstance(text, dict) else text)
    except PolicyError as error:
        return [str(problem) for problem in error.problems]
    return []


SEGMENTS = st.sampled_from(["a", "b", "*"])
PATTERNS = st.builds(
    lambda segments, rest: "/" + "/".join(segments + rest),
    st.lists(SEGMENTS, max_size=3),
    st.sampled_from([[], [], ["**"]]),
)
METHODS = st.sampled_from(["GET", "POST", "PUT"])
ANSWERS = st.sampled_from(["deny", "allow", "envoy", "local"])
NAMES = st.sampled_from(["alice", "bob", "ä b", "a:b=c", "7"])


def some_of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Generates objects with some of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


def limits(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Generates limits with some of the fields."""
    rates = st.floats(0.000001, 1000) | st.integers(1, 1_000_000_000)
    texts = st.builds("{}/{}".format, st.integers(1, 999), st.sampled_from(["s", "min", "h", "day"]))
    rate = st.fixed_dictionaries({"refill_rate": rates}) | st.fixed_dictionaries({"rate": texts})
    capacity = st.fixed_dictionaries({"capacity": st.integers(1, 20)}, optional=fields)
    return st.builds(lambda one, other: one | other, capacity, rate)


OFF = st.sampled_from(["off", False])
TIER = limits(shadow=st.booleans(), on_store_error=ANSWERS) | OFF
LEASES = st.sampled_from(["auto", "off", False])
GLOBAL_TIER = limits(shadow=st.booleans(), on_store_error=ANSWERS, lease=LEASES) | OFF
ROUTE = st.fixed_dictionaries(
    {"path": PATTERNS},
    optional={
        "methods": st.lists(METHODS, min_size=1, max_size=3),
        "api": st.sampled_from(["orders", "search"]),
        "cost": st.integers(0, 5),
        "user_api": limits(),
        "exempt": st.booleans(),
        "shadow": st.booleans(),
        "on_store_error": ANSWERS,
    },
)
OVERRIDE = some_of(
    user=limits(), user_api=limits(), exempt=st.booleans(), blocked=st.booleans(), shadow=st.booleans()
)
ADDRESSES = st.sampled_from(["203.0.113.9", "2001:db8::/64", "2001:db8:1::5"])
OVERRIDES = some_of(
    users=st.dictionaries(NAMES, OVERRIDE),
    addresses=st.dictionaries(ADDRESSES, OVERRIDE),
    headers=st.dictionaries(
        st.sampled_from(["x-plan", "x-team"]), st.dictionaries(st.sampled_from(["gold", "red"]), OVERRIDE)
    ),
    context=st.dictionaries(
        st.sampled_from(["plan", "team"]), st.dictionaries(st.sampled_from(["gold", "red"]), OVERRIDE)
    ),
)
DOCUMENTS = st.fixed_dictionaries(
    {"tiers": st.fixed_dictionaries({"global": GLOBAL_TIER, "user": TIER, "user_api": TIER})},
    optional={"shadow": st.booleans(), "routes": st.lists(ROUTE, max_size=5), "overrides": OVERRIDES},
)
"""Policies in the full form as plain data. A route may cost more than a bucket holds."""

VALID_DOCUMENTS = DOCUMENTS.filter(lambda data: not problems(data))

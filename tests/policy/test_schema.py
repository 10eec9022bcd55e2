"""The JSON Schema: committed as it is made, and no narrower than what is accepted."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema_rs import Draft202012Validator

from ratelimitd.policy.schema import schema, schema_text
from ratelimitd.policy.text import DEFAULT_TEXT
from tests.policy.documents import VALID_DOCUMENTS, document

COMMITTED = Path(__file__).parents[2] / "docs" / "policy.schema.json"
VALIDATOR = Draft202012Validator(schema())


def test_the_committed_schema_is_fresh() -> None:
    """It is what the command prints."""
    renew = "renew it: ratelimitd policy schema > docs/policy.schema.json"
    assert COMMITTED.read_text() == schema_text(), renew


@given(VALID_DOCUMENTS)
def test_every_policy_that_is_accepted_is_one_by_the_schema(data: dict[str, Any]) -> None:
    """So no editor marks what is right."""
    VALIDATOR.validate(data)


def test_the_flat_form_is_one_by_the_schema() -> None:
    """As somebody writes it with redis-cli."""
    VALIDATOR.validate(json.loads(DEFAULT_TEXT))


@pytest.mark.parametrize(
    "bad",
    [
        {},
        document(limits=1),
        document(routes=[{"path": "/a", "cost": -1}]),
        document(routes=[{"path": "a"}]),
        document(routes=[{"path": "/a", "methods": ["get"]}]),
        document(routes=[{"path": "/a", "user_api": None}]),
        document(routes=[{"path": "/a", "user_api": {"capacity": 1}}]),
        document(tiers={"global": "off", "user": "off"}),
        document(tiers={"global": "off", "user": "off", "user_api": {"capacity": 1, "rate": "1/year"}}),
        document(overrides={"users": {"a": {"user": {"capacity": 1, "rate": "1/s", "refill_rate": 1}}}}),
        document(overrides={"users": {"": {}}}),
        json.loads(DEFAULT_TEXT) | {"user_rate": 0},
    ],
)
def test_common_mistakes_are_seen_by_the_schema(bad: dict[str, Any]) -> None:
    """An editor can mark them while they are written."""
    assert not VALIDATOR.is_valid(bad)

"""The JSON Schema of policies: the committed file is current, and it accepts every valid policy."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema_rs import Draft202012Validator

from ratelimitd.policy.schema import schema, schema_text
from ratelimitd.policy.text import DEFAULT_TEXT
from tests.policy.documents import VALID_DOCUMENTS, document, problems

COMMITTED = Path(__file__).parents[2] / "docs" / "policy.schema.json"
VALIDATOR = Draft202012Validator(schema())


def test_the_committed_schema_is_current() -> None:
    renew = "run: ratelimitd policy schema > docs/policy.schema.json"
    assert COMMITTED.read_text() == schema_text(), renew


@given(VALID_DOCUMENTS)
def test_the_schema_accepts_every_valid_policy(data: dict[str, Any]) -> None:
    VALIDATOR.validate(data)


def test_the_schema_accepts_encoded_and_unencoded_patterns() -> None:
    paths = ["/", "/**", "/a/*/b", "/café", "/caf%C3%A9", "/{id}", "/a;v=1", "/日本/%2a"]
    VALIDATOR.validate(document(routes=[{"path": path} for path in paths]))


def test_the_schema_accepts_the_flat_form() -> None:
    VALIDATOR.validate(json.loads(DEFAULT_TEXT))


@pytest.mark.parametrize(
    ("number", "valid"), [("1e+03", True), ("1000.0", True), ("1.5", False), ('"9"', False)]
)
def test_the_schema_and_the_parser_agree_on_whole_numbers(number: str, valid: bool) -> None:  # noqa: FBT001 - the expectation
    text = DEFAULT_TEXT.replace("500", number)
    assert VALIDATOR.is_valid(json.loads(text)) is valid
    assert (problems(text) == []) is valid


@pytest.mark.parametrize(
    "bad",
    [
        {},
        document(limits=1),
        document(routes=[{"path": "/a", "cost": -1}]),
        document(routes=[{"path": "a"}]),
        document(routes=[{"path": "/%zz"}]),
        document(routes=[{"path": "/a b"}]),
        document(routes=[{"path": "/a?b"}]),
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
def test_the_schema_rejects_common_mistakes(bad: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(bad)

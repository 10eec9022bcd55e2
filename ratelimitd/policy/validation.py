"""Validates a policy text without a store: its problems, or advice on a valid policy."""

from pydantic import BaseModel, ConfigDict

from ratelimitd.errors import PolicyError, Problem
from ratelimitd.policy.advice import advice
from ratelimitd.policy.text import parse


class ValidationResult(BaseModel):
    """The result of validating a policy text. `advice` points out rules without effect; it stops nothing."""

    model_config = ConfigDict(frozen=True)

    valid: bool
    problems: tuple[Problem, ...]
    advice: tuple[Problem, ...]


def validate(text: bytes | str) -> ValidationResult:
    """Returns the problems of a policy text, or the advice on it when it is valid."""
    try:
        return ValidationResult(valid=True, problems=(), advice=advice(parse(text)))
    except PolicyError as error:
        return ValidationResult(valid=False, problems=error.problems, advice=())

"""The numbers of the tiers as a form."""

import pytest

from ratelimitd.admin.panel.tier_form import with_numbers
from ratelimitd.errors import PolicyError
from ratelimitd.policy.normal_form import normal_text
from ratelimitd.policy.text import parse
from tests.admin.panel.browser import FULL
from tests.example_limits import limits_json


def test_the_form_changes_its_numbers_and_nothing_else() -> None:
    changed = with_numbers(FULL, {"global_capacity": "700", "global_rate": "50", "user_rate": "300/min"})
    assert changed == normal(FULL.replace("500", "700"))


def test_a_rate_may_be_typed_with_its_unit() -> None:
    assert with_numbers(FULL, {"user_rate": "90/min"}) == normal(FULL.replace("300/min", "90/min"))
    assert with_numbers(FULL, {"user_rate": "2.5"}) == normal(FULL.replace("300/min", "150/min"))
    assert parse(with_numbers(limits_json(), {"user_rate": "90/min"})) == parse(limits_json(user_rate=1.5))


@pytest.mark.parametrize("typed", ["700.0", "7e2", " +7E+02 "])
def test_a_whole_number_may_be_typed_with_an_exponent_or_a_decimal_point(typed: str) -> None:
    assert with_numbers(FULL, {"global_capacity": typed}) == normal(FULL.replace("500", "700"))
    changed = with_numbers(limits_json(), {"global_capacity": typed})
    assert parse(changed) == parse(limits_json(global_capacity=700))


def normal(text: str) -> str:
    """Returns the normal form of a text."""
    return normal_text(parse(text))


@pytest.mark.parametrize("typed", ["", "ten", "1/fortnight", "-1", "null", "[1]", "1e400"])
@pytest.mark.parametrize("text", [FULL, limits_json()])
@pytest.mark.parametrize("field", ["global_capacity", "global_rate"])
def test_an_invalid_number_is_a_problem_of_its_field(text: str, field: str, typed: str) -> None:
    with pytest.raises(PolicyError) as refused:
        with_numbers(text, {field: typed})
    assert {form_field(problem.path) for problem in refused.value.problems} == {field}


def form_field(path: str) -> str:
    """`tiers.global.refill_rate` and `global_rate` are one field of the form."""
    return path.removeprefix("tiers.").replace(".", "_").replace("refill_rate", "rate")

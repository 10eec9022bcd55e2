import io
import sys

import pytest

from ratelimitd.cli.sparkline import sparkline


@pytest.fixture(autouse=True)
def utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))


def test_only_zero_has_the_lowest_character() -> None:
    assert sparkline([0, 1, 500, 1000], 10) == "▁▂▅█"
    assert sparkline([0, 0], 10) == "▁▁"
    assert sparkline([3], 10) == "█"
    assert sparkline([], 10) == ""


def test_neighbours_share_a_character() -> None:
    assert sparkline([0, 0, 6, 6, 12, 12, 12], 3) == "▁▅█"
    assert len(sparkline([1] * 359, 32)) == 32


def test_without_unicode_the_characters_are_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert sparkline([0, 1, 500, 1000], 10) == "_.=#"

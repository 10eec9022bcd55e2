"""The geometry of charts: axes, lines, tables and summaries."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.admin.panel.chart_axes import Axis, marks_on, round_ticks, time_labels
from ratelimitd.admin.panel.charts import MAX_ROWS, NOTHING, Line, Plot, Value, last, paths
from ratelimitd.admin.panel.figures import compact, figures, seconds, share
from ratelimitd.core.model import MICRO

NOON_US = 1_796_040_000 * MICRO  # 2026-11-30 12:00:00 UTC
AXIS = Axis(start_us=NOON_US, step_s=10, steps=90, label_s=180, with_day=False)


def plot(*lines: Line, **more: object) -> Plot:
    """Returns a plot of these lines."""
    return Plot("id", "Title", "nothing", lines, figures, compact, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [
        (0, [0, 0.5, 1]),
        (0.003, [0, 0.001, 0.002, 0.003]),
        (1, [0, 0.5, 1]),
        (7, [0, 2.5, 5, 7.5]),
        (10, [0, 5, 10]),
        (250, [0, 100, 200, 300]),
        (1_000_000, [0, 500_000, 1_000_000]),
    ],
)
def test_an_axis_has_round_numbers(highest: float, ticks: list[float]) -> None:
    assert round_ticks(highest) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("highest", "ticks"), [(0, [0, 1, 2]), (1, [0, 1, 2]), (3, [0, 1, 2, 3]), (7, [0, 3, 6, 9])]
)
def test_an_axis_of_counts_has_whole_numbers(highest: float, ticks: list[float]) -> None:
    assert round_ticks(highest, whole=True) == ticks


@given(st.floats(min_value=1e-6, max_value=1e15))
def test_an_axis_reaches_the_highest_value_with_three_or_four_numbers(highest: float) -> None:
    ticks = round_ticks(highest)
    assert ticks[0] == 0
    assert 3 <= len(ticks) <= 4
    assert highest <= ticks[-1] * (1 + 1e-6)
    assert ticks[-1] <= highest * 2.5


def test_a_gap_in_the_values_is_a_gap_in_the_line() -> None:
    stroke, fill = paths([0, 10, None, 5, None], 10)
    assert stroke == "M10.00 100.0L30.00 0.0M70.00 50.0h-1"
    assert fill == "M10.00 100L10.00 100.0L30.00 0.0L30.00 100ZM70.00 100L70.00 50.0L70.00 100Z"
    assert paths([None, None], 1) == ("", "")


@given(st.lists(st.none() | st.floats(min_value=0, max_value=1e12), min_size=1, max_size=400))
def test_a_line_stays_within_its_plot(values: list[Value]) -> None:
    top = round_ticks(max([value for value in values if value is not None], default=0))[-1]
    for line in paths(values, top):
        assert "n" not in line  # nan, inf
        numbers = [float(one) for one in re.findall(r"[0-9.]+", line)]
        assert all(0 <= one <= 100 for one in numbers)


def test_a_chart_says_the_latest_the_highest_and_the_total() -> None:
    made = plot(
        Line("allowed", "one", [1, 300, *[2.5] * 87, None], total="1,234 in total"),
        Line("denied", "two", [None] * 90),
    ).chart(AXIS)
    assert made.about == "allowed: latest 2.5, highest 300, 1,234 in total. denied: no data."
    assert [path.latest for path in made.paths] == ["2.5", NOTHING]
    assert [tick.text for tick in made.ticks] == ["0", "100", "200", "300"]
    assert [tick.at for tick in made.ticks] == pytest.approx([100, 66.7, 33.3, 0], abs=0.1)


def test_a_table_has_at_most_sixty_rows_which_cover_all_steps() -> None:
    axis = Axis(start_us=NOON_US, step_s=10, steps=361, label_s=600, with_day=False)
    rows = plot(Line("tokens", "one", list(range(361))), reduce=last).chart(axis).rows
    assert len(rows) <= MAX_ROWS
    assert sum(row.width for row in rows) == pytest.approx(100)
    assert (rows[0].time, rows[0].cells) == ("12:00:00", ["6"])
    assert rows[-1].cells == ["360"]


def test_a_row_averages_the_known_values_of_its_steps() -> None:
    axis = Axis(start_us=NOON_US, step_s=10, steps=120, label_s=600, with_day=False)
    rows = plot(Line("allowed", "one", [10, None, *[None] * 118])).chart(axis).rows
    assert [row.cells for row in rows[:2]] == [["10"], [NOTHING]]


def test_a_chart_without_values_says_so() -> None:
    made = plot(Line("p50", "one", [None] * 90)).chart(AXIS)
    assert (made.empty, made.rows) == ("nothing", [])


def test_times_are_round_and_in_utc() -> None:
    assert [label.text for label in time_labels(AXIS)] == ["12:03", "12:06", "12:09", "12:12"]
    assert [label.at for label in time_labels(AXIS)] == pytest.approx([20, 40, 60, 80])
    week = Axis(NOON_US - 6 * 86_400 * MICRO, step_s=1800, steps=336, label_s=86_400, with_day=True)
    assert [label.text for label in time_labels(week)] == [
        "25 Nov", "26 Nov", "27 Nov", "28 Nov", "29 Nov", "30 Nov", "1 Dec",
    ]  # fmt: skip
    assert sum(label.minor for label in time_labels(week)) == 3
    assert week.time(0) == "24 Nov 12:00"


def test_marks_outside_the_axis_are_left_out_and_labels_do_not_overlap() -> None:
    instants = [(NOON_US + at * MICRO, f"rev. {at}", "title") for at in (-1, 0, 90, 300, 890, 900, 901)]
    found = marks_on(AXIS, instants)
    assert [(round(mark.at), mark.label, mark.after) for mark in found] == [
        (100, "rev. 900", False), (99, "", False), (33, "rev. 300", False), (10, "", True), (0, "", True),
    ]  # fmt: skip
    assert [mark.label for mark in marks_on(AXIS, instants[:2])] == ["rev. 0"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0004, "< 0.001"),
        (0.0033, "0.0033"),
        (0.25, "0.25"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (1_234_567, "1.23M"),
        (999_999_999, "1G"),
    ],
)
def test_numbers_have_about_three_digits(value: float, text: str) -> None:
    assert figures(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (0.00085, "850 µs"),
        (0.00099999, "1 ms"),
        (0.0012, "1.2 ms"),
        (0.9999, "1 s"),
        (2.5, "2.5 s"),
    ],
)
def test_durations_have_a_fitting_unit(value: float, text: str) -> None:
    assert seconds(value) == text


def test_shares_never_round_something_to_nothing() -> None:
    shares = [share(*one).split() for one in ((0, 9), (1, 9999), (1, 8), (0, 0))]
    assert shares == [["0", "%"], ["0.1", "%"], ["12", "%"], ["0", "%"]]
    assert [compact(one) for one in (0, 0.5, 250, 2500, 40_000_000)] == ["0", "0.5", "250", "2.5k", "40M"]

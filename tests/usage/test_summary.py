from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.usage.summary import Count, Summary, SummaryCounter, merge

KEYS = [f"user-{number}" for number in range(12)]
BATCHES = st.lists(st.lists(st.sampled_from(KEYS), max_size=20), max_size=20)


def counted(batches: Sequence[Sequence[str]], kept: int, most: int = len(KEYS)) -> Summary:
    counter = SummaryCounter(kept)
    for batch in batches:
        counter.add(batch)
    return counter.summary(most)


def assert_holds(summary: Summary, streams: Sequence[Sequence[Sequence[str]]]) -> None:
    """Compares a summary with exact counts."""
    true = Counter(key for stream in streams for batch in stream for key in batch)
    assert summary.total == true.total()
    for key, count in summary.counts.items():
        assert count.requests - count.error <= true[key] <= count.requests
        assert count.requests >= summary.floor
    assert all(true[key] <= summary.floor for key in KEYS if key not in summary.counts)


@given(stream=BATCHES, kept=st.integers(1, 8))
def test_bounds_hold_for_every_stream(stream: list[list[str]], kept: int) -> None:
    summary = counted(stream, kept)
    assert_holds(summary, [stream])
    assert summary.floor * kept <= summary.total
    assert len(summary.counts) <= kept


@given(streams=st.lists(BATCHES, max_size=5), kept=st.integers(1, 8), most=st.integers(1, 12))
def test_bounds_hold_for_merged_and_cut_summaries(
    streams: list[list[list[str]]], kept: int, most: int
) -> None:
    merged = merge([counted(stream, kept, most) for stream in streams])
    assert_holds(merged, streams)
    assert_holds(merged.cut(most), streams)
    assert len(merged.cut(most).counts) <= most


def test_counts_are_exact_while_all_keys_fit() -> None:
    assert counted([["a", "b"], ["a"]], kept=2) == Summary(3, 0, {"a": Count(2, 0), "b": Count(1, 0)})


def test_a_frequent_key_is_listed_among_many_others() -> None:
    others = [[f"once-{batch}-{number}" for number in range(50)] for batch in range(40)]
    summary = counted([["often"] * 5 + batch for batch in others], kept=20, most=1)
    assert next(iter(summary.counts)) == "often"


def test_errors_of_a_merge_count_only_where_they_apply() -> None:
    first = Summary(20, 3, {"a": Count(10, 1), "b": Count(4, 0)})
    second = Summary(9, 2, {"a": Count(5, 2)})
    assert merge([first, second]) == Summary(29, 5, {"a": Count(15, 3), "b": Count(6, 2)})


def test_cut_lists_the_largest_first() -> None:
    summary = Summary(9, 1, {"c": Count(2, 0), "b": Count(3, 0), "a": Count(3, 0)})
    assert list(summary.cut(2).counts) == ["a", "b"]
    assert summary.cut(2).floor == 2
    assert summary.cut(3).floor == 1

"""How numbers are put into bins of round width, and what their quantiles are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.report.distribution import Distribution, round_up

NUMBERS = st.integers(-(10**6), 10**9) | st.floats(-1e6, 1e9, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "rounded"), [(1, 1), (1.01, 2), (3, 5), (0.04, 0.05), (0.1, 0.1), (600, 1000)]
)
def test_a_width_is_a_round_number(value: float, rounded: float) -> None:
    assert round_up(value) == pytest.approx(rounded)


@given(st.dictionaries(NUMBERS, st.integers(1, 1000), min_size=1, max_size=60))
def test_every_row_is_in_one_bin(counted: dict[float, int]) -> None:
    numbers = Distribution(counted)

    bins = numbers.bins()

    assert sum(each.rows for each in bins) == sum(counted.values()) == numbers.rows
    assert len(bins) <= 42
    assert bins[0].start <= numbers.least
    assert bins[-1].end >= numbers.most
    assert all(a.end == pytest.approx(b.start) for a, b in pairwise(bins))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
def test_a_quantile_is_one_of_the_values(values: list[int]) -> None:
    numbers = Distribution({value: values.count(value) for value in values})

    assert numbers.quantile(0.5) == sorted(values)[(len(values) - 1) // 2]
    assert numbers.quantile(1) == max(values)
    assert numbers.total == sum(values)


def test_few_whole_numbers_have_a_bin_each() -> None:
    bins = Distribution({1: 5, 4: 2, None: 9}).bins()

    assert [(each.start, each.end, each.rows) for each in bins] == [
        (1, 2, 5),
        (2, 3, 0),
        (3, 4, 0),
        (4, 5, 2),
    ]

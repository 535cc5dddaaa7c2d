"""Durations as people read them."""

from __future__ import annotations

import pytest

from jobs.wording import spelled


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (110, "110 s"),
        (170.2, "2 min 50 s"),
        (3599.6, "1 h 00 min"),
        (7320, "2 h 02 min"),
    ],
)
def test_the_two_largest_units(seconds, said):
    assert spelled(seconds) == said

"""`Distribution`: how often each value of a column of numbers stands in it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from math import ceil, floor, log10
from typing import NamedTuple

_BINS = 40


class Bin(NamedTuple):
    """Values from `start` on and below `end`, and how many rows have one."""

    start: float
    end: float
    rows: int


class Distribution:
    """How many rows have each number; rows without one are left out."""

    def __init__(self, counted: Mapping[float | None, int]) -> None:
        known = {value: rows for value, rows in counted.items() if value is not None}
        self._values = sorted(known)
        self._rows = [known[value] for value in self._values]
        self._up_to = list(accumulate(self._rows))

    def __bool__(self) -> bool:
        return bool(self._values)

    @property
    def rows(self) -> int:
        return self._up_to[-1] if self._up_to else 0

    @property
    def total(self) -> float:
        """Return the sum of all rows."""
        return sum(v * rows for v, rows in zip(self._values, self._rows, strict=True))

    @property
    def least(self) -> float:
        return self._values[0]

    @property
    def most(self) -> float:
        return self._values[-1]

    def quantile(self, share: float) -> float:
        """Return the least value that this share of the rows do not exceed."""
        due = share * self.rows
        return next(v for v, up_to in zip(self._values, self._up_to, strict=True) if up_to >= due)

    def bins(self) -> list[Bin]:
        """Return at most some forty bins of one round width, from the least value to the most."""
        whole = all(float(value).is_integer() for value in self._values)
        width = round_up((self.most - self.least) / _BINS or 1.0)
        width = max(width, 1.0) if whole else width
        first = floor(self.least / width)
        found = [0] * (floor(self.most / width) - first + 1)
        for value, rows in zip(self._values, self._rows, strict=True):
            found[floor(value / width) - first] += rows
        starts = ((first + at) * width for at in range(len(found)))
        return [Bin(start, start + width, rows) for start, rows in zip(starts, found, strict=True)]


def round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, 50, … that is no less."""
    power: float = 10.0 ** floor(log10(value))
    return next(step * power for step in (1, 2, 5, 10) if ceil(value / power * 1e6) <= step * 1e6)

"""`Labels`: what constrained answers say, field by field."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jobs.column_types import TypeSpec
from jobs.column_values import json_decoder
from worker.report.columns import Columns
from worker.report.distribution import Distribution

ANSWER = "the answer"
MOST_LABELS = 24
_MOST_VALUES = 4096  # of one field that are told apart
_MOST_FIELDS = 12
_DEPTH = 3


@dataclass(slots=True)
class Field:
    """One field of the answers; a list counts as each of its items.

    Attributes:
        counted: how often it has each value.
        is_free: it has too many to count.
    """

    name: str
    counted: Counter[Any] = field(default_factory=Counter)
    is_free: bool = False

    def add(self, value: Any) -> None:
        if not self.is_free:
            self.counted[value] += 1
            self.is_free = len(self.counted) > _MOST_VALUES

    @property
    def values(self) -> int:
        return self.counted.total()

    @property
    def numbers(self) -> Distribution | None:
        """Its values, if they are numbers and too many for a bar each."""
        plain = all(type(value) in (int, float) for value in self.counted)
        is_many = len(self.counted) > MOST_LABELS // 2
        return Distribution(self.counted) if plain and is_many and not self.is_free else None

    @property
    def labels(self) -> list[tuple[str, int]] | None:
        """The most frequent values, and all others as one; None of text that hardly repeats."""
        times = 2 if len(self.counted) <= MOST_LABELS else 4  # that each should stand on average
        is_text = len(self.counted) > MOST_LABELS // 2 and self.values < times * len(self.counted)
        if self.is_free or is_text:
            return None
        first = [(_text(value), rows) for value, rows in self.counted.most_common(MOST_LABELS)]
        rest = self.values - sum(rows for _, rows in first)
        others = len(self.counted) - len(first)
        return [*first, (f"({others} others)", rest)] if others else first


def labels_of(columns: Columns, parsed: TypeSpec) -> list[Field]:
    """Return the fields of constrained answers; none if there are no such answers."""
    fields: dict[str, Field] = {}
    if {"complete", "parsed"} <= set(columns.names) and set(columns.counted("complete")) != {None}:
        decode = json_decoder(parsed)
        for text, complete, value in columns.values("text", "complete", "parsed"):
            if complete:
                said = text if value is None else decode(value)
                for name, each in _leaves(said):
                    if name in fields or len(fields) < _MOST_FIELDS:
                        fields.setdefault(name, Field(name)).add(each)
    return list(fields.values())


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and name.count(".") < _DEPTH:
        for key, each in value.items():
            yield from _leaves(each, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each, name)
    elif value is None or isinstance(value, str | bool | int | float):
        yield name or ANSWER, value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

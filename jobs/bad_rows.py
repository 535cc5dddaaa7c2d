"""`BadRows`: what is wrong with rows of an input, each kind of it once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from jobs.sources import SourceRow
from jobs.wording import counted

MOST_KINDS = 20
MOST_LINES = 10
_ROW = re.compile(r"^\w+=[\[{].*?(?:\.\.\.|[\]}]): ")  # the row itself, or its beginning
_VALUE = re.compile(r"""'[^']*'|"[^"]*"|-?\d+(?:\.\d+)?""")


@dataclass(slots=True)
class _Kind:
    """Rows with one thing wrong; their values may differ.

    Attributes:
        first: of them.
        places: line and row of the first few.
    """

    first: SourceRow
    rows: int = 0
    places: list[tuple[int, int]] = field(default_factory=list)

    def __str__(self) -> str:
        first = self.first
        if self.rows == 1:
            return f"line {first.line}, row {first.row}: {first.error}"
        lines, rows = zip(*self.places, strict=True)
        # A whole JSON array may stand on one line.
        kind, places = ("lines", lines) if len(set(lines)) == len(lines) else ("rows", rows)
        more = self.rows - len(places)
        listed = ", ".join(map(str, places)) + (f" and {more} more" if more else "")
        return f"{self.rows} rows: {_ROW.sub('', str(first.error))}, {kind} {listed}"


class BadRows:
    """Counts bad rows and tells them by kind; `len()` is how many there are."""

    def __init__(self) -> None:
        self._count = 0
        self._kinds: dict[str, _Kind] = {}

    def add(self, row: SourceRow) -> None:
        """Count a row with an error."""
        self._count += 1
        name = _VALUE.sub("…", _ROW.sub("", str(row.error)))
        kind = self._kinds.get(name)
        if kind is None:
            if len(self._kinds) == MOST_KINDS:
                return
            kind = self._kinds[name] = _Kind(row)
        kind.rows += 1
        if len(kind.places) < MOST_LINES:
            kind.places.append((row.line, row.row))

    def __len__(self) -> int:
        return self._count

    def described(self) -> Iterator[str]:
        """Yield a line for each kind: one row with its error, or the first of many."""
        yield from map(str, self._kinds.values())
        if more := self._count - sum(kind.rows for kind in self._kinds.values()):
            yield f"... and {counted(more, 'more row')}"

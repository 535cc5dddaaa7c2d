"""`Columns`: the columns of a dataset that may have a million rows, added up piece by piece."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc
import pyarrow.dataset as pads

from jobs.dataset import Dataset
from jobs.errors import DatasetError

_BATCH = 16_384  # rows in memory at once, of the columns that are asked for
ROWS = "rows"


class Columns:
    """The rows that are there, of whole parts and of others, whether the run has ended or not.

    Raises:
        DatasetError: there is no part, or one can't be read.
    """

    def __init__(self, root: Path) -> None:
        self.parts = Dataset(root).rows_files
        if not self.parts:
            raise DatasetError(f"{root} holds no rows yet")
        # Each file's own footer says what it has, which the first one's says for all.
        self._dataset = pads.dataset([str(part) for part in self.parts], format="parquet")

    @property
    def names(self) -> list[str]:
        names: list[str] = self._dataset.schema.names
        return names

    def type(self, name: str) -> pa.DataType:
        return self._dataset.schema.field(name).type

    def rows(self) -> list[int]:
        """Return how many rows each part has."""
        return [fragment.count_rows() for fragment in self._dataset.get_fragments()]

    def grouped(
        self,
        by: Mapping[str, pc.Expression],
        aggregates: Mapping[str, tuple[str, pc.Expression]] | None = None,
    ) -> list[dict[str, Any]]:
        """Return a record for each group of rows, with its number of rows under `rows`.

        Args:
            by: what the rows of a group have in common, by name.
            aggregates: what else is asked of a group, by name: one of Arrow's functions, such as
                `sum`, and of what.
        """
        wanted = aggregates or {}
        columns = {**by, **{name: value for name, (_, value) in wanted.items()}}
        steps = [
            acero.Declaration(
                "scan",
                acero.ScanNodeOptions(self._dataset, columns=columns, batch_size=_BATCH),
            ),
            acero.Declaration(
                "project", acero.ProjectNodeOptions(list(columns.values()), list(columns))
            ),
            acero.Declaration(
                "aggregate",
                acero.AggregateNodeOptions(
                    [
                        *((name, f"hash_{how}", None, name) for name, (how, _) in wanted.items()),
                        ([], "hash_count_all", None, ROWS),
                    ],
                    keys=list(by),
                ),
            ),
        ]
        table = acero.Declaration.from_sequence(steps).to_table(use_threads=False)
        records: list[dict[str, Any]] = table.to_pylist()
        return records

    def counted(self, column: str) -> dict[Any, int]:
        """Return how many rows have each value of a column."""
        groups = self.grouped({column: pc.field(column)})
        return {group[column]: group[ROWS] for group in groups}

    def values(self, *columns: str) -> Iterator[tuple[Any, ...]]:
        """Yield the values of these columns, row by row."""
        for batch in self._dataset.to_batches(
            columns=list(columns), batch_size=_BATCH, use_threads=False
        ):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def first_failures(self, each: int) -> dict[str, list[int]]:
        """Return where the first rows of each type of error are: parts, and positions in the input.

        Looked for in this column only: a filter over all of them would read them all.
        """
        seen: Counter[str] = Counter()
        places: dict[str, list[int]] = {}
        for batch in self._dataset.to_batches(
            columns=["error_type", "row", "__filename"],
            filter=pc.field("error_type").is_valid(),
            batch_size=_BATCH,
            use_threads=False,
        ):
            for name, row, part in zip(*(column.to_pylist() for column in batch), strict=True):
                seen[name] += 1
                if seen[name] <= each:
                    places.setdefault(part, []).append(row)
        return places

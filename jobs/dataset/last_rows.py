"""`last_rows`: the rows of a dataset, finished or not, that ended last."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from jobs.dataset.layout import DatasetPaths
from jobs.errors import DatasetError
from jobs.result_row import RESULT_COLUMNS, ResultRow


def last_rows(root: Path, count: int) -> list[ResultRow]:
    """Return up to `count` rows of the parts that are there, the last one last.

    Where it is not known when rows ended, as in parts of older versions, the last in order.

    Raises:
        DatasetError: a part can't be read.
    """
    import pyarrow.dataset as pads  # brings pandas where there is one: few commands need it

    parts = sorted(DatasetPaths(root).data.glob("train-*.parquet"))
    if not parts or count < 1:
        return []
    wanted = [column.name for column in RESULT_COLUMNS]
    try:
        rows = pads.dataset(parts, format="parquet")
        if "finished_at" in rows.schema.names:
            ends = rows.to_table(columns=["finished_at"])["finished_at"]
            order = pc.sort_indices(pc.fill_null(ends, pa.scalar(0, ends.type)))[-count:]
        else:
            total = rows.count_rows()
            order = pa.array(range(max(0, total - count), total), pa.int64())
        columns = [name for name in wanted if name in rows.schema.names]
        cells = rows.take(order, columns=columns).to_pylist()
        return [ResultRow.of_cells(dict.fromkeys(wanted) | row) for row in cells]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"{root} can't be read: {error}") from error

"""`retry_errors`: run the rows of a finished run again that ended in an error.

Their shards are reopened, keeping all other rows: the worker that claims one generates the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from redis import Redis

from jobs.dataset import Dataset
from jobs.errors import DatasetError, RunStateError
from jobs.ledger import Ledger, RunState
from jobs.producer import Enqueued, resume_run
from jobs.queue.run_jobs import RunJobs
from jobs.result_row import RESULT_COLUMNS, ResultRow
from jobs.run_spec import RunSpec


def retry_errors(
    connection: Redis, run_id: str, *, error_type: str | None = None
) -> tuple[int, Enqueued | None]:
    """Enqueue again the shards with error rows, and keep what else they hold.

    Args:
        error_type: only rows that ended in this error.

    Returns:
        How many rows are tried again, and what was enqueued; None if there are none.

    Raises:
        RunNotFoundError: the server knows no such run.
        RunStateError: the run has not ended.
        DatasetError: its dataset can't be seen from here, or is damaged.
        InputFileError: the input can't be read, or is not what the run was made of.
    """
    ledger = Ledger(connection)
    progress = ledger.progress(run_id)
    spec, dataset = progress.spec, Dataset(Path(progress.spec.out))
    # A finalize job whose worker died at its very end comes back, and would end the run too soon.
    if progress.state is not RunState.FINISHED or RunJobs(connection, spec).is_finalizing:
        raise RunStateError(
            f"{run_id} has not ended: `mlx-batch status {run_id}` shows where it is"
        )
    dataset.check_holder(run_id)
    retried = 0
    for shard in range(spec.shards):
        cells = _read(dataset, spec, shard, ["finish_reason", "error_type"])
        failed = {place for place, row in enumerate(cells) if _has_failed(row, error_type)}
        if failed:
            rows = enumerate(_rows(dataset, spec, shard))
            kept = {place: row for place, row in rows if place not in failed}
            dataset.unfinish()
            ledger.reopen(run_id, {shard: kept})
            retried += len(failed)
    return retried, resume_run(connection, run_id) if retried else None


def _has_failed(row: dict[str, Any], error_type: str | None) -> bool:
    return row["finish_reason"] == "error" and error_type in (None, row["error_type"])


def _rows(dataset: Dataset, spec: RunSpec, shard: int) -> list[ResultRow]:
    cells = _read(dataset, spec, shard, [column.name for column in RESULT_COLUMNS])
    try:
        return list(map(ResultRow.of_cells, cells))
    except ValueError as error:
        path = dataset.part_path(shard, spec.shards)
        raise DatasetError(f"{path} has a row that is none: {error}") from error


def _read(dataset: Dataset, spec: RunSpec, shard: int, columns: list[str]) -> list[dict[str, Any]]:
    """Return these cells of a shard's rows, in order."""
    path = dataset.part_path(shard, spec.shards)
    try:
        table = pq.read_table(path, columns=columns).select(columns)
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{path} can't be read: {error}") from error
    if table.num_rows != len(spec.shard_rows(shard)):
        raise DatasetError(f"{path} has {table.num_rows} rows: `mlx-batch verify` tells more")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows

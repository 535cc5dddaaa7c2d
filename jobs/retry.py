"""`retry_errors`: run the rows of a finished run again that ended in an error.

Their shards are reopened, keeping all other rows: the worker that claims one generates the rest.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
from redis import Redis

from jobs.bad_rows import BadRows
from jobs.dataset import Dataset, schema
from jobs.dataset.part import read_part
from jobs.errors import DatasetError, RunStateError
from jobs.ledger import Ledger, RunState
from jobs.producer import Enqueued, input_again, resume_run
from jobs.queue.run_jobs import RunJobs
from jobs.result_row import RESULT_COLUMNS, ResultRow
from jobs.run_spec import RunSpec
from vllm_mlx.errors import InvalidRequestError


def retry_errors(
    connection: Redis, run_id: str, *, error_type: str | None = None
) -> tuple[int, Enqueued]:
    """Enqueue again the shards with error rows, and keep what else they hold.

    Args:
        error_type: only rows that ended in this error.

    Returns:
        How many rows are tried again, and what was enqueued.

    Raises:
        RunNotFoundError: the server knows no such run.
        RunStateError: the run has not ended.
        InvalidRequestError: no row ended in this error; the message lists those there are.
        DatasetError: its dataset can't be seen from here, or is damaged.
        InputFileError: the input can't be read, or is not what the run was made of.
    """
    ledger = Ledger(connection)
    progress = ledger.progress(run_id)
    spec, dataset = progress.spec, Dataset(Path(progress.spec.out))
    # A finalize job whose worker died at its very end comes back, and would end the run too soon.
    if progress.state is not RunState.FINISHED or RunJobs(connection, spec).is_finalizing:
        raise RunStateError(
            f"{run_id} has not ended: `mlx-batch status {spec.called}` shows where it is, "
            f"`mlx-batch resume {spec.called}` goes on with it"
        )
    dataset.check_holder(run_id)
    retried, types, source = 0, Counter[str](), None
    for shard in range(spec.shards):
        part = _part(dataset, spec, shard)
        ends = zip(part["finish_reason"].to_pylist(), part["error_type"].to_pylist(), strict=True)
        errors = {place: type for place, (reason, type) in enumerate(ends) if reason == "error"}
        types.update(errors.values())
        failed = {place for place, type in errors.items() if error_type in (None, type)}
        if failed:
            source = source or input_again(spec)  # first: without it nothing is to be undone
            rows = enumerate(_rows(part, dataset.layout.part(shard, spec.shards)))
            kept = {place: row for place, row in rows if place not in failed}
            dataset.unfinish()
            ledger.reopen(run_id, {shard: kept})
            retried += len(failed)
    if error_type is not None and not retried:
        there = ", ".join(f"{type} ({rows})" for type, rows in types.most_common()) or "none"
        raise InvalidRequestError(
            f"no row of {run_id} ended in {error_type!r}; the error types there are: {there}"
        )
    if not retried:
        return 0, Enqueued(spec, 0, BadRows(), None)
    return retried, resume_run(connection, run_id, source)


def _part(dataset: Dataset, spec: RunSpec, shard: int) -> pa.Table:
    path = dataset.layout.part(shard, spec.shards)
    rows = read_part(path, schema(spec.columns, spec.parsed))
    if rows.num_rows != len(spec.shard_rows(shard)):
        raise DatasetError(f"{path} has {rows.num_rows} rows: `mlx-batch verify` tells more")
    return rows


def _rows(part: pa.Table, path: Path) -> list[ResultRow]:
    cells = part.select([column.name for column in RESULT_COLUMNS]).to_pylist()
    try:
        return list(map(ResultRow.of_cells, cells))
    except ValueError as error:
        raise DatasetError(f"{path} has a row that is none: {error}") from error

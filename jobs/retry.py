"""`retry_errors`: run the rows of a finished run again that ended in an error.

All other rows of their shards go back into the ledger, as if the shard had been interrupted right
before its last rows: the worker that claims it generates only those.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from redis import Redis

from jobs.dataset import Dataset, ResultRow
from jobs.errors import DatasetError, RunStateError
from jobs.ledger import Ledger, RunState
from jobs.ledger.lease import counts_of, encode_row
from jobs.logprobs import logprobs_of
from jobs.media_column import media_of
from jobs.producer import Enqueued, ReportProgress, resume_run
from jobs.queue.run_jobs import RunJobs
from jobs.run_spec import RunSpec
from vllm_mlx.outputs import GenerationOutput

_OUTPUT = tuple(field.name for field in fields(GenerationOutput))
_OWN = ("id", "row", "sample_index", "attempts", "worker")


def retry_errors(
    connection: Redis,
    run_id: str,
    *,
    error_type: str | None = None,
    report: ReportProgress = lambda _phase, _rows: None,
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
        places = _failed(_read(dataset, spec, shard, ["finish_reason", "error_type"]), error_type)
        if not places:
            continue
        dataset.unfinish()
        rows = map(_result, _read(dataset, spec, shard, [*_OWN, *_OUTPUT]))
        kept = {at: row for at, row in enumerate(rows) if at not in places}
        entries = {at: encode_row(row) for at, row in kept.items()}
        ledger.reopen_shard(run_id, shard, entries, counts_of(kept.values()))
        retried += len(places)
    return retried, resume_run(connection, run_id, report=report) if retried else None


def _failed(rows: list[dict[str, Any]], error_type: str | None) -> set[int]:
    """The places of a part's rows that ended in such an error."""
    return {
        at
        for at, row in enumerate(rows)
        if row["finish_reason"] == "error" and error_type in (None, row["error_type"])
    }


def _read(dataset: Dataset, spec: RunSpec, shard: int, columns: list[str]) -> list[dict[str, Any]]:
    """These columns of a shard's rows, in order."""
    path = dataset.part_path(shard, spec.shards)
    try:
        table = pq.read_table(path, columns=columns).select(columns)
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{path} can't be read: {error}") from error
    if table.num_rows != len(spec.shard_rows(shard)):
        raise DatasetError(f"{path} has {table.num_rows} rows: `mlx-batch verify` tells more")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _result(cells: dict[str, Any]) -> ResultRow:
    output = {name: cells[name] for name in _OUTPUT}
    output |= {"logprobs": logprobs_of(cells["logprobs"]), "media": media_of(cells["media"])}
    return ResultRow(**{name: cells[name] for name in _OWN}, output=GenerationOutput(**output))

"""`write_unfinished`: brings rows that only a server knows to the folder of their dataset."""

from __future__ import annotations

from pathlib import Path

from redis import Redis

from jobs.dataset import Dataset
from jobs.errors import JobPayloadError
from jobs.ledger import Ledger
from jobs.queue.run_jobs import open_queue
from jobs.queue.tasks import GenerateShard, read_task
from jobs.run_spec import RunSpec
from worker.flights.shard_rows import ShardRows


def write_unfinished(connection: Redis, spec: RunSpec) -> None:
    """Write the recorded rows of all shards that are not committed to `_job/unfinished/`.

    A row's columns are those of its job. Where that is gone, the row has none.

    Raises:
        DatasetError: the folder belongs to another run, or can't be written.
    """
    dataset = Dataset(Path(spec.out))
    ledger = Ledger(connection)
    for shard, recorded in ledger.recorded(spec.run_id).items():
        task = _task(connection, spec, shard)
        rows = list(recorded.values())
        if task is not None:
            made = ShardRows(spec, task)
            rows = made.for_dataset(made.those_of_it(recorded))
        if rows:
            dataset.prepare(ledger.pin_revision(spec, None).manifest())
            dataset.write_unfinished(shard, rows)
    if dataset.is_claimed:
        dataset.layout.unfinished.mkdir(exist_ok=True)  # also without a row: nothing is unwritten


def _task(connection: Redis, spec: RunSpec, shard: int) -> GenerateShard | None:
    job = open_queue(connection, spec.queue).fetch_job(spec.shard_id(shard))
    try:
        task = None if job is None else read_task(job)
    except JobPayloadError:
        return None
    return task if isinstance(task, GenerateShard) else None

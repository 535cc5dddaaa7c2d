"""`park`: puts the job of a halted run aside, until the run goes on."""

from __future__ import annotations

from typing import Any, cast

from redis.client import Pipeline
from rq.job import JobStatus

from jobs.ledger.keys import HALTED, run_key
from worker.rq import Execution
from worker.rq.bookkeeper import Bookkeeper


def park(bookkeeper: Bookkeeper, execution: Execution, run_id: str) -> bool:
    """Put a job among RQ's deferred ones; with no retry spent.

    Returns:
        False if the run goes on by now: nothing is done then. Else what resumes the run finds the
        job there, since both read the same key in one transaction.
    """
    job, key = execution.job, run_key(run_id)

    def move(pipeline: Pipeline) -> bool:
        is_halted = bool(pipeline.hexists(key, HALTED))
        pipeline.multi()
        if is_halted:
            execution.delete(job=job, pipeline=pipeline)
            job.set_status(JobStatus.DEFERRED, pipeline=pipeline)
            bookkeeper.queue.deferred_job_registry.add(job, pipeline=pipeline)
        return is_halted

    transaction = cast(Any, bookkeeper.connection.transaction)
    is_parked: bool = transaction(move, key, value_from_callable=True)
    if is_parked:
        bookkeeper.forget(execution)
    return is_parked

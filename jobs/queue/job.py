"""`BatchJob`: RQ's job with what lets a run of thousands of shards stay linear and small."""

from __future__ import annotations

from typing import Any

from redis.client import Pipeline
from rq.job import Job, JobStatus
from rq.results import Result

from jobs.errors import JobPayloadError
from jobs.ledger import Ledger
from jobs.queue.tasks import read_task

MOST_SECONDS = 365 * 24 * 3600


class BatchJob(Job):
    """A shard or the finalize job of a run."""

    # RQ imports what these name. Our jobs have none, and other jobs are not run.
    success_callback = None
    failure_callback = None
    stopped_callback = None

    def restore(self, raw_data: Any) -> None:
        """Restore the job, with numbers bounded to what a clock and Redis can count.

        Our jobs are not repeated; RQ would enqueue one of another program again at once, for ever.

        Raises:
            ValueError: it names no jobs as its dependencies.
        """
        super().restore(raw_data)
        named = self._dependency_ids
        if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
            raise ValueError("its dependencies are no list of names")
        self.timeout = _bounded(self.timeout)
        self.result_ttl = _bounded(self.result_ttl)
        self.failure_ttl = _bounded(self.failure_ttl)
        self.repeats_left = None

    def send_webhooks(self, *_: Any, **__: Any) -> None:
        """Call none of the URLs that a job names."""

    def _handle_success(
        self, result_ttl: int, pipeline: Pipeline, *args: Any, **kwargs: Any
    ) -> None:
        """Keep no result: its stream takes 4 KB a shard, and the ledger has the counts."""
        super()._handle_success(result_ttl, pipeline, *args, **kwargs)
        pipeline.delete(Result.get_key(self.id))

    def dependencies_are_met(
        self,
        parent_job: Job | None = None,
        pipeline: Pipeline | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> bool:
        """Return whether all shards of this run are committed, by one call to the ledger.

        RQ reads the status of every dependency each time one of them ends: for N shards N² reads.
        The watch on this job's own key keeps two last shards from both releasing it.
        """
        try:
            task = read_task(self)
        except JobPayloadError:  # a job of another program waits for one of ours
            return bool(super().dependencies_are_met(parent_job, pipeline, *args, **kwargs))
        if pipeline is not None:
            pipeline.watch(self.key)
        if self.get_status() != JobStatus.DEFERRED:
            return False
        ledger = Ledger(self.connection)
        return ledger.shards_done(task.run_id) == ledger.spec(task.run_id).shards


def _bounded(seconds: float | None) -> int | None:
    return None if seconds is None else int(max(-1, min(seconds, MOST_SECONDS)))

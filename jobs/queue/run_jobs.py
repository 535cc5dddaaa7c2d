"""`RunJobs`: the RQ jobs of one run, a job a shard and one that finalizes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.job import Job, JobStatus, Retry
from rq.queue import EnqueueData
from rq.serializers import JSONSerializer

from jobs.queue.job import BatchJob
from jobs.queue.queue_state import QueueState
from jobs.queue.tasks import FINALIZE_RUN, GENERATE_SHARD
from jobs.run_spec import RunSpec

JOB_TIMEOUT = 24 * 3600  # seconds; RQ's default of 180 would end a long shard
RESULT_TTL = 24 * 3600
FAILURE_TTL = 30 * 24 * 3600
RETRY = Retry(max=3, interval=[1, 10, 60])
_LIMITS: Mapping[str, Any] = {
    "timeout": JOB_TIMEOUT,
    "result_ttl": RESULT_TTL,
    "failure_ttl": FAILURE_TTL,
    "retry": RETRY,
}

# What a job may be for `--resume` to leave it alone.
_ON_ITS_WAY = {
    JobStatus.QUEUED,
    JobStatus.STARTED,
    JobStatus.SCHEDULED,
    JobStatus.DEFERRED,
    JobStatus.READY_TO_ENQUEUE,
}


def open_queue(connection: Redis, name: str) -> Queue:
    """Open a queue as every part of mlx-batch does: JSON only, our job class."""
    return Queue(name, connection=connection, serializer=JSONSerializer, job_class=BatchJob)


def stored_size(payload: dict[str, Any]) -> int:
    """Return about how many bytes RQ keeps of a job, which it compresses."""
    return len(zlib.compress(JSONSerializer.dumps(payload)))


def enqueue_now(queue: Queue, job: Job, pipeline: Pipeline, *, at_front: bool = False) -> None:
    """Enqueue a job with the pipeline, whatever it depends on and with no retry spent."""
    queue._enqueue_job(job, pipeline=pipeline, at_front=at_front)


class RunJobs:
    """Makes, finds and removes the jobs of a run; their ids follow from the run's."""

    def __init__(self, connection: Redis, spec: RunSpec) -> None:
        self._spec = spec
        self._queue = open_queue(connection, spec.queue)

    def defer_finalize(self, *, release: bool) -> None:
        """Make the run's last job wait for all shards, before any of them exists.

        `Queue.enqueue(depends_on=…)` would take shards that are not enqueued yet as finished. Each
        shard names this job as its dependent when it is enqueued.

        Args:
            release: all shards are done, so it need not wait.
        """
        spec = self._spec
        if not self._ended_or_absent([spec.finalize_id]):
            return
        job = self._queue.create_job(
            FINALIZE_RUN,
            kwargs={"run_id": spec.run_id},
            job_id=spec.finalize_id,
            depends_on=[spec.shard_id(shard) for shard in range(spec.shards)],
            status=JobStatus.DEFERRED,
            description=f"finalize {spec.run_id}",
            **_LIMITS,
        )
        with self._queue.connection.pipeline() as pipeline:
            pipeline.sadd(Queue.redis_queues_keys, self._queue.key)
            job.save(pipeline=pipeline)
            if release:
                enqueue_now(self._queue, job, pipeline)
            else:
                self._queue.deferred_job_registry.add(job, pipeline=pipeline)
            pipeline.execute()

    def enqueue_missing(self, payloads: Sequence[tuple[int, dict[str, Any]]]) -> int:
        """Enqueue those of these (shard, payload) that have no job on its way; returns how many."""
        spec = self._spec
        missing = self._ended_or_absent([spec.shard_id(shard) for shard, _ in payloads])
        jobs = [self._shard_job(*each) for each in payloads if spec.shard_id(each[0]) in missing]
        with self._queue.connection.pipeline() as pipeline:
            for job_id in missing:
                pipeline.sadd(BatchJob.dependents_key_for(job_id), spec.finalize_id)
            self._queue.enqueue_many(jobs, pipeline=pipeline)
            pipeline.execute()
        return len(jobs)

    def release_parked(self) -> int:
        """Enqueue the shards that workers have put aside; returns how many.

        They stand among RQ's deferred jobs, with their rows: the input is not read again.
        """
        spec, queue = self._spec, self._queue
        deferred = QueueState(queue).jobs()["deferred"]
        ours = {each for each in deferred if each.startswith(f"{spec.run_id}-")}
        ids = sorted(ours - {spec.finalize_id})
        statuses, _ = self._look_at(ids, with_places=False)
        ids = [job_id for job_id, at in zip(ids, statuses, strict=True) if at == JobStatus.DEFERRED]
        with queue.connection.pipeline() as pipeline:
            for job_id in ids:
                pipeline.zrem(queue.deferred_job_registry.key, job_id)
                pipeline.hset(BatchJob.key_for(job_id), "status", JobStatus.QUEUED)
                pipeline.rpush(queue.key, job_id)
            pipeline.execute()
        return len(ids)

    @property
    def is_finalizing(self) -> bool:
        """Whether the last job has yet to end."""
        (status,), _ = self._look_at([self._spec.finalize_id], with_places=False)
        return status in _ON_ITS_WAY

    def delete(self) -> int:
        """Remove all jobs of the run; returns how many there were."""
        ids = [self._spec.finalize_id, *map(self._spec.shard_id, range(self._spec.shards))]
        jobs = [job for job_id in ids if (job := self._queue.fetch_job(job_id))]
        for job in jobs:
            job.delete()
        return len(jobs)

    def _ended_or_absent(self, job_ids: list[str]) -> set[str]:
        """Return which of these jobs will not run any more, and remove what is left of them."""
        statuses, placed = self._look_at(job_ids, with_places=False)
        if any(status in _ON_ITS_WAY for status in statuses):
            # Once more, in one moment with where jobs stand: one that stands nowhere is lost.
            statuses, placed = self._look_at(job_ids, with_places=True)
        ended = set()
        for job_id, status in zip(job_ids, statuses, strict=True):
            if status in _ON_ITS_WAY and job_id in placed:
                continue
            ended.add(job_id)
            if status and (job := self._queue.fetch_job(job_id)):
                job.delete()  # also takes it out of the registry of its end
        return ended

    def _look_at(self, job_ids: list[str], *, with_places: bool) -> tuple[list[str], set[str]]:
        """Return the jobs' statuses, and all jobs of the queue that wait, run, or will."""
        queue = self._queue
        with queue.connection.pipeline() as pipeline:
            for job_id in job_ids:
                pipeline.hget(BatchJob.key_for(job_id), "status")
            if with_places:
                pipeline.lrange(queue.key, 0, -1)
                pipeline.lrange(queue.intermediate_queue_key, 0, -1)
                pipeline.zrange(queue.scheduled_job_registry.key, 0, -1)
                pipeline.zrange(queue.deferred_job_registry.key, 0, -1)
                pipeline.zrange(queue.ready_job_registry.key, 0, -1)
                pipeline.zrange(queue.started_job_registry.key, 0, -1)
            found = pipeline.execute()
        statuses = [(raw or b"").decode(errors="replace") for raw in found[: len(job_ids)]]
        entries = [entry for names in found[len(job_ids) :] for entry in names]
        # Those that have begun stand as `JOB:EXECUTION`.
        return statuses, {each.partition(b":")[0].decode(errors="replace") for each in entries}

    def _shard_job(self, shard: int, payload: dict[str, Any]) -> EnqueueData:
        spec, rows = self._spec, self._spec.shard_rows(shard)
        return Queue.prepare_data(
            GENERATE_SHARD,
            kwargs=payload,
            job_id=spec.shard_id(shard),
            description=f"{spec.run_id} rows {rows.start}-{rows.stop - 1} of {spec.rows}",
            **_LIMITS,
        )

"""`QueueState`: what RQ's keys say of a queue, read so that nothing in them can stop a monitor.

RQ's own readers raise at the first entry that is no UTF-8, and some of them clean up as they read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from jobs.queue.job import BatchJob

PLACES = ("queued", "started", "delayed", "deferred", "failed")


class QueueState:
    """The jobs and workers of one queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._redis: Redis = queue.connection

    def jobs(self) -> dict[str, list[str]]:
        """Return the ids of jobs by where they stand, at one moment; keys as in `PLACES`.

        One that a worker has taken and not begun is queued yet.
        """
        queue = self._queue
        started, delayed = queue.started_job_registry, queue.scheduled_job_registry
        registries = (started, delayed, queue.deferred_job_registry, queue.failed_job_registry)
        with self._redis.pipeline() as pipeline:
            for key in (queue.intermediate_queue_key, queue.key):
                pipeline.lrange(key, 0, -1)
            for registry in registries:
                pipeline.zrange(registry.key, 0, -1)
            taken, waiting, *others = pipeline.execute()
        # Those that have begun stand as `JOB:EXECUTION`.
        found = ([*taken, *waiting], *others)
        ids = [[entry.partition(":")[0] for entry in _texts(entries)] for entries in found]
        return dict(zip(PLACES, ids, strict=True))

    @property
    def workers(self) -> list[str]:
        members = self._redis.smembers(WORKERS_BY_QUEUE_KEY % self._queue.name)
        return sorted(key.rpartition(":")[2] for key in _texts(cast(set[bytes], members)))

    def is_empty(self) -> bool:
        """Return whether no job waits, will be retried, or runs and so may be lost yet."""
        queue = self._queue
        delayed, ready = queue.scheduled_job_registry, queue.ready_job_registry
        registries = (delayed, ready, queue.started_job_registry)
        return not (
            queue.count
            or self._redis.llen(queue.intermediate_queue_key)  # taken, and not begun
            or any(each.get_job_count(cleanup=False) for each in registries)
        )

    def load(self) -> tuple[int, int, int]:
        """Return how many jobs wait, how many have begun, and how many workers there are.

        For a minute dead workers are counted, too.
        """
        queue = self._queue
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.llen(queue.key)
            pipeline.zcard(queue.started_job_registry.key)
            pipeline.scard(WORKERS_BY_QUEUE_KEY % queue.name)
            waiting, begun, workers = pipeline.execute()
        return waiting, begun, workers

    def reason(self, job_id: str) -> str | None:
        """Return why a job failed; None if there is no such job any more."""
        try:
            job = BatchJob.fetch(job_id, self._redis, self._queue.serializer)
            result = job.latest_result()
        except NoSuchJobError:
            return None
        except RedisError:
            raise
        except Exception as error:  # whatever a broken record makes RQ raise
            return f"its record is broken: {type(error).__name__}"
        lines = (result.exc_string or "").strip().splitlines() if result else []
        return lines[-1] if lines else ""


def queue_names(connection: Redis) -> list[str]:
    """Return the names of the queues that RQ knows."""
    members = cast(set[bytes], connection.smembers(Queue.redis_queues_keys))
    return sorted(key.removeprefix(Queue.redis_queue_namespace_prefix) for key in _texts(members))


def _texts(raw: Iterable[bytes]) -> list[str]:
    return [each.decode(errors="replace") for each in raw]

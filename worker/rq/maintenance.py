"""`Maintenance`: what the workers of a queue do for it together, one step at a call.

RQ finds lost jobs by the local clock of the process that looks, and spends a retry. Here a worker
lives as long as its own record in Redis does, which expires by Redis' clock. One script takes a job
back to the front of the queue, so two workers don't enqueue it twice, and no retry is spent.
RQ runs its scheduler in a forked process and cleans up every ten minutes; here a worker's loop does
both, and no entry that RQ can't read stops it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, worker_registration
from rq.executions import Execution, ExecutionRegistry
from rq.job import JobStatus
from rq.registry import clean_registries
from rq.scheduler import RQScheduler
from rq.worker.base import BaseWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from jobs.ledger.keys import loading_key, steady_key
from jobs.queue.run_jobs import enqueue_now
from worker.rq.sweep import sweep

logger = logging.getLogger("mlx_batch.worker")

MAINTENANCE = 1  # seconds between looks for jobs whose worker died
TIDY = 60  # seconds between RQ's own looks at its registries

# After Redis was away the records of all workers may have expired. So heartbeats of any worker must
# have come for a lease without a gap; asked here and not before, as Redis may freeze at any time.
_TAKE_BACK = """
local since = tonumber(redis.call('GET', KEYS[7]) or '')
local now = tonumber(redis.call('TIME')[1])
if not since or now - since < tonumber(ARGV[5]) then return 0 end
local held = redis.call('ZREM', KEYS[1], ARGV[1]) + redis.call('LREM', KEYS[2], 1, ARGV[2])
redis.call('DEL', KEYS[5])
redis.call('ZREM', KEYS[6], ARGV[4])
if held == 0 or redis.call('EXISTS', KEYS[4]) == 0 then return 0 end
redis.call('HSET', KEYS[4], 'status', ARGV[3])
redis.call('LPUSH', KEYS[3], ARGV[2])
return 1
"""
# Since when heartbeats of any worker come without a gap.
_STEADY = """
local now = tonumber(redis.call('TIME')[1])
local since = tonumber(redis.call('GET', KEYS[1]) or '')
if not since or since > now then since = now end
redis.call('SET', KEYS[1], since, 'EX', ARGV[1])
"""


class Maintenance:
    """Keeps the lists of one queue in order.

    Args:
        lease: seconds that a worker's record lasts after its heartbeat.
        is_ours: whether this worker works on the job of an id.

    Attributes:
        scheduler: RQ's, without its process.
    """

    def __init__(
        self, queue: Queue, worker: str, lease: int, is_ours: Callable[[str], bool]
    ) -> None:
        self._queue = queue
        self._redis: Redis = queue.connection
        self._worker = worker
        self._lease = lease
        self._is_ours = is_ours
        self._taken_at: dict[str, float] = {}
        self.scheduler = RQScheduler(
            [queue], queue.connection, logging_level="WARNING", serializer=queue.serializer
        )

    def note_heartbeat(self) -> None:
        """Keep the heartbeats of the queue steady; to be called with each of them."""
        script = self._redis.register_script(_STEADY)
        script(keys=[steady_key(self._queue.name)], args=[max(1, self._lease // 2)])

    def enqueue_delayed_retries(self) -> None:
        """Enqueue the retries whose time has come."""
        if self.scheduler.acquire_locks():
            self._swept(self.scheduler.enqueue_scheduled_jobs)
        self.scheduler.heartbeat()

    def take_back_lost(self) -> None:
        """Enqueue what dead workers left ready, and the jobs that they had in hand."""
        self._swept(self._queue.ready_job_registry.cleanup)
        self._swept(self._take_back_executions)

    def tidy(self) -> None:
        """Let RQ remove what has expired."""
        if not self._queue.acquire_maintenance_lock():
            return
        # RQ's lock would keep all workers out for 15 minutes if this one died now.
        self._redis.expire(self._queue.registry_cleaning_key, TIDY)
        try:
            self._swept(partial(clean_registries, self._queue))
            self._swept(partial(worker_registration.clean_worker_registry, self._queue))
        finally:
            self._queue.release_maintenance_lock()

    def _swept(self, look: Callable[[], object]) -> None:
        """Do what stops at entries that are no jobs; remove these then, for the next time."""
        try:
            look()
        except RedisError:
            raise
        except Exception as error:  # whatever a broken record makes RQ raise
            logger.error("the queue can't be read: %s: %s", type(error).__name__, error)
            sweep(self._queue)

    def _take_back_executions(self) -> None:
        for execution in self._lost_executions():
            self._take_back(execution)
        for job_id in self._stuck_jobs():
            self._take_back(Execution("", job_id, self._redis))

    def _lost_executions(self) -> list[Execution]:
        """Return the executions that no worker works on."""
        started = self._queue.started_job_registry.get_job_and_execution_ids(cleanup=False)
        executions = [Execution(each, job_id, self._redis) for job_id, each in started]
        holders = self._read([each.key for each in executions], "worker_name")
        names = [raw.decode(errors="replace") if raw else "" for (raw,) in holders]
        alive = self._alive(set(names))
        return [
            each
            for each, name in zip(executions, names, strict=True)
            if not (self._is_ours(each.job_id) if name == self._worker else name in alive)
        ]

    def _alive(self, names: set[str]) -> set[str]:
        """Return those whose record exists and has no `death` field."""
        ordered = sorted(names - {""})
        keys = [BaseWorker.redis_worker_namespace_prefix + name for name in ordered]
        found = self._read(keys, "birth", "death")
        return {
            name for name, (birth, death) in zip(ordered, found, strict=True) if birth and not death
        }

    def _stuck_jobs(self) -> list[str]:
        """Return jobs that a worker took a lease ago and never began."""
        now = time.monotonic()
        taken = self._queue.intermediate_queue.get_job_ids()
        self._taken_at = {job_id: self._taken_at.get(job_id, now) for job_id in taken}
        return [job_id for job_id, at in self._taken_at.items() if now - at >= self._lease]

    def _take_back(self, execution: Execution) -> None:
        """Enqueue the job of an execution; its id is empty when the job never began."""
        job_id = execution.job_id
        job_key = self._queue.job_class.key_for(job_id)
        keys = [
            self._queue.started_job_registry.key,
            self._queue.intermediate_queue_key,
            self._queue.key,
            job_key if isinstance(job_key, str) else job_key.decode(),
            execution.key,
            ExecutionRegistry(job_id, self._redis).key,
            steady_key(self._queue.name),
        ]
        script = self._redis.register_script(_TAKE_BACK)
        entry, status = execution.composite_key, JobStatus.QUEUED.value
        if script(keys=keys, args=[entry, job_id, status, execution.id, self._lease]):
            logger.warning("job %s was lost with its worker and is queued again", job_id)

    def _read(self, keys: list[str], *fields: str) -> list[list[bytes | None]]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hmget(key, fields)
            return pipeline.execute()


def take_back_all(queue: Queue) -> None:
    """Take back every job that has begun: the workers of the queue are known to be dead.

    They are counted no more, though what they said last has not expired yet.
    """
    started = queue.started_job_registry
    held = [job_id for job_id, _ in started.get_job_and_execution_ids(cleanup=False)]
    held += queue.intermediate_queue.get_job_ids()
    jobs = [job for job_id in dict.fromkeys(held) if (job := queue.fetch_job(job_id))]
    with queue.connection.pipeline() as pipeline:
        for job in jobs:
            enqueue_now(queue, job, pipeline, at_front=True)
        scheduler_lock = RQScheduler.get_locking_key(queue.name)
        pipeline.delete(started.key, queue.intermediate_queue_key, scheduler_lock)
        pipeline.delete(WORKERS_BY_QUEUE_KEY % queue.name, loading_key(queue.name))
        pipeline.execute()

"""`Reaper`: takes back the jobs of workers that died.

RQ tells by the clock of whoever looks, and spends a retry. Here a worker lives as long as its own
record in Redis does, which expires by Redis' clock. A job is taken back in one script, so two
reapers don't enqueue it twice, to the front of the queue and with no retry spent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast

from redis import Redis
from rq import Queue
from rq.executions import Execution, ExecutionRegistry
from rq.job import JobStatus
from rq.worker.base import BaseWorker

from jobs.ledger.keys import steady_key

logger = logging.getLogger("mlx_batch.worker")

# After Redis was away everybody's record may have expired. So there must have been heartbeats, of
# whomever, for a lease without a gap; asked here and not before, as Redis may freeze at any time.
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
# Since when somebody's heartbeats come without a gap.
_STEADY = """
local now = tonumber(redis.call('TIME')[1])
local since = tonumber(redis.call('GET', KEYS[1]) or '')
if not since or since > now then since = now end
redis.call('SET', KEYS[1], since, 'EX', ARGV[1])
"""


class Reaper:
    """Looks after the jobs of one queue.

    Args:
        lease: seconds that a worker's record lasts after its heartbeat.
        is_ours: whether a job is in this worker's hands.
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

    def note_heartbeat(self) -> None:
        """Called with each heartbeat: the workers of a queue together keep it steady."""
        script = self._redis.register_script(_STEADY)
        script(keys=[steady_key(self._queue.name)], args=[max(1, self._lease // 2)])

    def take_back_lost(self) -> int:
        """Enqueue the jobs whose worker is dead, if all that live have had the time to say so.

        Returns:
            How many.
        """
        taken = sum(self._take_back(_job_id(key), key) for key in self._lost_executions())
        return taken + sum(self._take_back(job_id) for job_id in self._stuck_jobs())

    def _lost_executions(self) -> list[str]:
        """Keys of executions that nobody works on."""
        entries = cast(list[bytes], self._redis.zrange(self._queue.started_job_registry.key, 0, -1))
        keys = [entry.decode() for entry in entries]
        holders = self._read([("hget", _execution_key(key), "worker_name") for key in keys])
        names = [raw.decode(errors="replace") if raw else "" for raw in holders]
        alive = self._alive(set(names))
        return [
            key
            for key, name in zip(keys, names, strict=True)
            if not (self._is_ours(_job_id(key)) if name == self._worker else name in alive)
        ]

    def _alive(self, names: set[str]) -> set[str]:
        """Those whose record is there and does not tell of their end."""
        ordered = sorted(names - {""})
        keys = [BaseWorker.redis_worker_namespace_prefix + name for name in ordered]
        found = self._read([("hmget", key, "birth", "death") for key in keys])
        return {
            name for name, (birth, death) in zip(ordered, found, strict=True) if birth and not death
        }

    def _stuck_jobs(self) -> list[str]:
        """Jobs that somebody took a lease ago and never began."""
        now = time.monotonic()
        taken = self._queue.intermediate_queue.get_job_ids()
        self._taken_at = {job_id: self._taken_at.get(job_id, now) for job_id in taken}
        return [job_id for job_id, at in self._taken_at.items() if now - at >= self._lease]

    def _take_back(self, job_id: str, execution: str = "") -> int:
        job_key = self._queue.job_class.key_for(job_id)
        keys = [
            self._queue.started_job_registry.key,
            self._queue.intermediate_queue_key,
            self._queue.key,
            job_key if isinstance(job_key, str) else job_key.decode(),
            _execution_key(execution),
            ExecutionRegistry(job_id, self._redis).key,
            steady_key(self._queue.name),
        ]
        script = self._redis.register_script(_TAKE_BACK)
        execution_id = execution.rpartition(":")[2]
        queued = str(JobStatus.QUEUED.value)
        args: list[str | int] = [execution, job_id, queued, execution_id, self._lease]
        taken = int(script(keys=keys, args=args))
        if taken:
            logger.warning("job %s was lost with its worker and is queued again", job_id)
        return taken

    def _read(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for name, *arguments in commands:
                getattr(pipeline, name)(*arguments)
            return pipeline.execute() if commands else []


def _execution_key(composite_key: str) -> str:
    job_id, _, execution_id = composite_key.rpartition(":")
    return str(Execution(execution_id, job_id, cast(Redis, None)).key)


def _job_id(composite_key: str) -> str:
    return composite_key.rpartition(":")[0]

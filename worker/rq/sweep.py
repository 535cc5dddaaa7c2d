"""`sweep`: takes out of a queue what no job can be made of.

RQ stops at the first name that is no UTF-8 and at the first record it can't read, each time it
looks: one such entry, and no lost job would be found any more.
"""

from __future__ import annotations

import logging
import re
import time
from typing import cast

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import JobStatus
from rq.rate_limit import RateLimitRegistry
from rq.registry import ReadyJobRegistry
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from jobs.queue.run_jobs import FAILURE_TTL

logger = logging.getLogger("mlx_batch.worker")

_JOB = re.compile(rb"[A-Za-z0-9_-]+")
_EXECUTION = re.compile(rb"[A-Za-z0-9_-]+:[A-Za-z0-9_-]+")


def sweep(queue: Queue) -> int:
    """Remove what can't be read from a queue, its registries and RQ's lists; returns how much."""
    redis: Redis = queue.connection
    by_queue = WORKERS_BY_QUEUE_KEY % queue.name
    sets = (by_queue, REDIS_WORKER_KEYS, Queue.redis_queues_keys, RateLimitRegistry.rl_keys_key)
    removed = 0
    for key in sets:
        for member in cast(set[bytes], redis.smembers(key)):
            if not _is_text(member):
                removed += redis.srem(key, member)
    for key in (queue.key, queue.intermediate_queue_key):
        for entry in cast(list[bytes], redis.lrange(key, 0, -1)):
            if not _is_job(queue, entry, _JOB):
                removed += redis.lrem(key, 0, entry)  # type: ignore[arg-type]
    # What RQ reads jobs from, and what the entries look like.
    ready = ReadyJobRegistry(queue=queue)
    by_job = (queue.scheduled_job_registry, queue.deferred_job_registry, ready)
    registries = {queue.started_job_registry.key: _EXECUTION} | {each.key: _JOB for each in by_job}
    for key, names in registries.items():
        for entry in cast(list[bytes], redis.zrange(key, 0, -1)):
            if not _is_job(queue, entry, names):
                removed += redis.zrem(key, entry)
    if removed:
        logger.error("%d entries of %s that are no jobs were removed", removed, queue.name)
    return removed


def sweep_dependents(queue: Queue, job_id: str) -> int:
    """Remove what can't be read from the jobs that wait for this one; returns how much."""
    redis: Redis = queue.connection
    key = queue.job_class.dependents_key_for(job_id)
    members = cast(set[bytes], redis.smembers(key))
    broken = [
        member
        for member in members
        if not _JOB.fullmatch(member) or _what_breaks(queue, member.decode())
    ]
    return redis.srem(key, *broken) if broken else 0


def mark_failed(queue: Queue, job_id: str, error: Exception) -> None:
    """Move a job that can't be read to the failed registry."""
    logger.error("job %s has a broken record: %s: %s", job_id, type(error).__name__, error)
    with queue.connection.pipeline() as pipeline:
        pipeline.hset(queue.job_class.key_for(job_id), "status", JobStatus.FAILED)
        pipeline.zadd(queue.failed_job_registry.key, {job_id: time.time() + FAILURE_TTL})
        pipeline.lrem(queue.intermediate_queue_key, 1, job_id)
        pipeline.execute()


def _is_job(queue: Queue, entry: bytes, names: re.Pattern[bytes]) -> bool:
    """Whether RQ can make something of it; a job whose record is broken is marked as failed."""
    if not names.fullmatch(entry):
        return False
    job_id = entry.partition(b":")[0].decode()
    if error := _what_breaks(queue, job_id):
        mark_failed(queue, job_id, error)
    return error is None


def _what_breaks(queue: Queue, job_id: str) -> Exception | None:
    try:
        queue.job_class.fetch(job_id, connection=queue.connection, serializer=queue.serializer)
    except RedisError:
        raise
    except NoSuchJobError:  # RQ copes with those
        return None
    except Exception as error:  # whatever a broken record makes RQ raise
        return error
    return None


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True

"""`dequeue`: takes the next job of a queue that can be read."""

from __future__ import annotations

from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DequeueTimeout
from rq.job import Job

from worker.rq.sweep import mark_failed, sweep

MOST_BROKEN = 200  # jobs that are passed over in one call, which keeps heartbeats on time


def dequeue(queue: Queue, wait: int | None) -> Job | None:
    """Return the next job, waiting up to `wait` seconds in Redis; None does not wait.

    RQ moves the job to an intermediate list, where it stays until it begins. A job whose record
    can't be read is failed and passed over.
    """
    for _ in range(MOST_BROKEN):
        try:
            dequeued = Queue.dequeue_any(
                [queue],
                wait,
                connection=queue.connection,
                job_class=queue.job_class,
                serializer=queue.serializer,
            )
        except DequeueTimeout:
            return None
        except RedisError:
            raise
        except Exception as error:
            job_id = getattr(error, "job_id", None)
            if job_id is not None:  # RQ names the job when its record is at fault
                mark_failed(queue, job_id, error)
            elif not sweep(queue):
                raise
            wait = None
        else:
            return dequeued[0] if dequeued else None
    return None

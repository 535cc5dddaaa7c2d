"""`Bookkeeper`: an RQ worker without a loop, that can have many jobs in flight.

It knows how RQ is told that a job starts, ends, lives, is stopped or is given back, so that
`rq info` and the registries show the truth. What a job does is none of its concern.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

from redis import Redis
from redis.client import Pipeline, PubSub, PubSubWorkerThread
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue, worker_registration
from rq.command import parse_payload
from rq.exceptions import DequeueTimeout, DeserializationError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import clean_registries
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.worker.base import BaseWorker, WorkerStatus
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from jobs.queue.job import BatchJob
from worker.rq.reaper import Reaper
from worker.rq.sweep import mark_failed, sweep, sweep_dependents

logger = logging.getLogger("mlx_batch.worker")

LEASE = 10  # seconds a worker counts as alive after its last heartbeat, by Redis' clock
HEARTBEAT = 2  # seconds between heartbeats
MAINTENANCE = 1  # seconds between looks for jobs whose worker died
TIDY = 60  # seconds between RQ's own looks at its registries
MOST_BROKEN = 200  # jobs that are passed over at a time
# Seconds. RQ gives up jobs by the clock of whoever looks, also of `rq info`: never before ours do.
EXECUTION_TTL = 7 * 24 * 3600


class Bookkeeper(BaseWorker):
    """One queue, no fork, one thread for all of RQ.

    With one queue RQ moves a job through an intermediate list, so a crash between taking and
    starting it loses nothing; with several it would.

    Args:
        grace: seconds that jobs may go on after a stop was asked for.
    """

    job_class = BatchJob

    def __init__(
        self, from_queue: Queue, *, connection: Redis, name: str | None, grace: float
    ) -> None:
        super().__init__(
            [from_queue],
            name=name,
            connection=connection,
            serializer=JSONSerializer,
            job_class=BatchJob,
            worker_ttl=LEASE,
            job_monitoring_interval=HEARTBEAT,
            maintenance_interval=MAINTENANCE,
            log_job_description=False,
        )
        self.queue = from_queue
        self.stop_requested = False
        self._is_abandoned = False
        self._grace = grace
        self._stop_at = float("inf")
        self._stop_jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reaper = Reaper(from_queue, self.name, LEASE, self.has_in_hand)

    def register(self) -> None:
        """Make the worker known, listen for commands and signals.

        Raises:
            ValueError: a worker of this name is at work.
        """
        self.bootstrap(None)
        self.heartbeat()
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self.request_stop)
        self.scheduler = RQScheduler(
            self.queues, self.connection, logging_level="WARNING", serializer=self.serializer
        )
        self.scheduler.register_birth()

    # One job.

    def dequeue(self, wait: int | None) -> Job | None:
        """The next job, waiting up to `wait` seconds in Redis; None does not wait.

        A job whose record can't be read is failed and passed over; of very many such, some are
        left for the next call, or heartbeats would have to wait for them.
        """
        for _ in range(MOST_BROKEN):
            try:
                dequeued = self.queue_class.dequeue_any(
                    self.queues,
                    wait,
                    connection=self.connection,
                    job_class=self.job_class,
                    serializer=self.serializer,
                    death_penalty_class=self.death_penalty_class,
                )
            except DequeueTimeout:
                return None
            except RedisError:
                raise
            except Exception as error:
                job_id = getattr(error, "job_id", None)
                if job_id is not None:  # RQ names the job when its record is at fault
                    mark_failed(self.queue, job_id, error)
                elif not sweep(self.queue):
                    raise
                wait = None
            else:
                return dequeued[0] if dequeued else None
        return None

    def drop(self, job: Job) -> None:
        """Forget a job that was dequeued a second time while somebody holds it."""
        self.queue.intermediate_queue.remove(job.id)

    def is_held(self, job: Job) -> bool:
        """Whether somebody has begun a job that was just dequeued: it stood in the queue twice.

        If it is a dead worker, the job comes back when that is found out.
        """
        return job.get_status(refresh=False) is JobStatus.STARTED and bool(self._holders(job.id))

    def begin(self, job: Job) -> Execution:
        """The job is ours from here on."""
        execution = self.prepare_execution(job)
        with contextlib.suppress(DeserializationError):  # it wants the name for the process title
            self.prepare_job_execution(job, remove_from_intermediate_queue=True)
        return execution

    def holds(self, execution: Execution) -> bool:
        """Whether the job is still ours: after a long sleep somebody else may have taken it."""
        started = self.queue.started_job_registry.key
        return self.connection.zscore(started, execution.composite_key) is not None

    def let_go(self, execution: Execution) -> None:
        """Forget a job that is not ours any more, and leave its record alone."""
        logger.warning("job %s was taken over while this worker slept", execution.job_id)
        self.executions.pop(execution.id, None)
        ours = execution.composite_key
        # If nobody else holds the job, ours is what it is found by and taken back.
        if self._holders(execution.job_id) - {ours.encode()}:
            self.connection.zrem(self.queue.started_job_registry.key, ours)
        self.connection.srem(self.executions_key, ours)
        self._idle_if_empty()

    def _holders(self, job_id: str) -> set[bytes]:
        """The entries of a job among those that have begun."""
        key, begins = self.queue.started_job_registry.key, f"{job_id}:".encode()
        entries = cast(list[bytes], self.connection.zrange(key, 0, -1))
        return {entry for entry in entries if entry.startswith(begins)}

    def succeed(self, execution: Execution) -> None:
        """The job is finished; its dependents are released."""
        job = execution.job
        self.handle_execution_ended(job, self.queue, LEASE)
        registry = self.queue.started_job_registry
        try:
            self.handle_job_success(job, self.queue, registry, execution)
        except RedisError:
            raise
        except Exception:  # whatever waits for this job, and can't be read
            if not sweep_dependents(self.queue, job.id):
                raise
            self.handle_job_success(job, self.queue, registry, execution)
        self.successful_job_count += 1
        self._idle_if_empty()

    def fail(self, execution: Execution, error: BaseException, *, retry: bool = True) -> None:
        """The job failed; it is retried as long as it has retries left."""
        job = execution.job
        reason = f"{type(error).__name__}: {error}"
        logger.error("job %s failed: %s", job.id, reason)
        if not retry:
            job.retries_left = 0
        self.handle_execution_ended(job, self.queue, LEASE)
        self.handle_job_failure(job, self.queue, exc_string=reason, execution=execution)
        self.failed_job_count += 1
        self._idle_if_empty()

    def stop(self, execution: Execution) -> None:
        """The job was stopped on request: neither failed nor retried."""
        self._stopped_job_id = execution.job_id
        self.fail(execution, InterruptedError("stopped on request"))

    def give_back(self, execution: Execution) -> None:
        """Put the job back to the front of its queue, with no retry spent."""
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(execution.job, pipeline=pipeline, execution=execution)
            self.queue._enqueue_job(execution.job, pipeline=pipeline, at_front=True)
            pipeline.execute()

    # All of them, by the clock.

    def send_heartbeats(self) -> None:
        """Renew this worker's record, by which its jobs are held."""
        with self.connection.pipeline() as pipeline:
            self.heartbeat(pipeline=pipeline)
            pipeline.hexists(self.key, "birth")
            *_, is_known = pipeline.execute()
            # It had expired: Redis was away, or we slept. A job that began since has made a record
            # again, but without what others know us by.
            if not is_known:
                pipeline.hset(self.key, mapping=self.serialize())
                pipeline.hset(self.key, "state", self.get_state())
                worker_registration.register(self, pipeline)
                pipeline.expire(self.key, LEASE)
                if held := [each.composite_key for each in self.executions.values()]:
                    pipeline.sadd(self.executions_key, *held)
                    pipeline.expire(self.executions_key, LEASE)
                pipeline.execute()
        self._reaper.note_heartbeat()

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:  # noqa: ARG002
        """Live on for `LEASE` seconds, whatever RQ would grant."""
        super().heartbeat(LEASE, pipeline)

    def enqueue_delayed_retries(self) -> None:
        """Enqueue what is due. RQ runs its scheduler in a forked process; this is its step."""
        assert self.scheduler is not None
        if self.scheduler.acquire_locks():
            self._swept(self.scheduler.enqueue_scheduled_jobs)
        self.scheduler.heartbeat()

    def run_maintenance_tasks(self) -> None:
        """Take back the jobs of workers that died, and enqueue what they left ready."""
        self._forget_lost()
        self._swept(self.queue.ready_job_registry.cleanup)
        self._swept(self._reaper.take_back_lost)

    def tidy(self) -> None:
        """Let RQ remove what has expired."""
        if not self.queue.acquire_maintenance_lock():
            return
        # RQ's lock would keep everybody out for 15 minutes if we died now.
        self.connection.expire(self.queue.registry_cleaning_key, TIDY)
        try:
            self._swept(partial(clean_registries, self.queue, self._exc_handlers))
            self._swept(partial(worker_registration.clean_worker_registry, self.queue))
        finally:
            self.queue.release_maintenance_lock()

    def _forget_lost(self) -> None:
        """Forget what is in nobody's hands: Redis failed while we began it."""
        lost = [each for each in self.executions.values() if not self.has_in_hand(each.job_id)]
        for execution in lost:
            del self.executions[execution.id]
        if lost:
            self._idle_if_empty()

    def _swept(self, look: Callable[[], object]) -> None:
        """Do what stops at entries that are no jobs; remove these then, for the next time."""
        try:
            look()
        except RedisError:
            raise
        except Exception as error:  # whatever a broken record makes RQ raise
            logger.error("the queue can't be read: %s: %s", type(error).__name__, error)
            sweep(self.queue)

    def has_in_hand(self, job_id: str) -> bool:
        """Whether this worker works on a job."""
        return any(execution.job_id == job_id for execution in self.executions.values())

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Seconds until RQ itself takes a job for lost."""
        return EXECUTION_TTL

    # Commands and signals.

    def handle_payload(self, message: Any) -> None:
        """A command from `rq`, on its own thread; stopping works for each of many jobs."""
        try:
            payload = parse_payload(message)
            if payload["command"] in ("stop-job", "stop-execution"):
                self._stop_jobs.put(str(payload["job_id"]))
            else:
                super().handle_payload(message)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            logger.warning("a command that is none was ignored: %s", type(error).__name__)

    def jobs_to_stop(self) -> set[str]:
        """The jobs that were asked to stop since the last call."""
        return {self._stop_jobs.get() for _ in range(self._stop_jobs.qsize())}

    def request_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """First signal: admit nothing more and end within `grace`. Second: end now."""
        self._stop_at = time.monotonic() + (0 if self.stop_requested else self._grace)
        self.stop_requested = True

    @property
    def grace_is_over(self) -> bool:
        return time.monotonic() >= self._stop_at

    def is_suspended(self) -> bool:
        """Whether `rq suspend` is in force; jobs in flight go on."""
        suspended = bool(is_suspended(self.connection, self))
        if suspended and self.get_state() != WorkerStatus.SUSPENDED:
            logger.info("suspended; `rq resume` goes on")
            self.set_state(WorkerStatus.SUSPENDED)
        elif not suspended and self.get_state() == WorkerStatus.SUSPENDED:
            self.set_state(WorkerStatus.BUSY if self.executions else WorkerStatus.IDLE)
        return suspended

    @property
    def connection_timeout(self) -> int:
        """Seconds for an answer that RQ insists on: one more than it waits for a job."""
        return self.dequeue_timeout + 1

    def abandon(self) -> None:
        """End without a word: Redis is gone."""
        self._is_abandoned = True
        if self.pubsub_thread:
            self.pubsub_thread.stop()

    def _pubsub_exception_handler(
        self, exc: Exception, pubsub: PubSub, pubsub_thread: PubSubWorkerThread
    ) -> None:
        """Listen on when Redis fails, also when it was frozen, at which RQ's would end."""
        if self._is_abandoned:  # its connection was closed
            return
        if isinstance(exc, RedisTimeoutError):
            exc = RedisConnectionError(str(exc))
        super()._pubsub_exception_handler(exc, pubsub, pubsub_thread)

    def unsubscribe(self) -> None:
        """Stop listening for commands."""
        if self.pubsub_thread:
            # RQ unsubscribes first; the thread may then miss the stop and sleep on for a minute.
            self.pubsub_thread.stop()
        super().unsubscribe()

    def nothing_is_left(self) -> bool:
        """Whether no job waits, will be retried, or runs: on another worker, it may be lost yet."""
        queue = self.queue
        delayed, ready = queue.scheduled_job_registry, queue.ready_job_registry
        return not (
            self.executions
            or queue.count
            or self.connection.llen(queue.intermediate_queue_key)  # taken, and not begun
            or delayed.get_job_count(cleanup=False)
            or ready.get_job_count(cleanup=False)
            or queue.started_job_registry.get_job_count(cleanup=False)
        )

    def waiting_and_workers(self) -> tuple[int, int]:
        """How many jobs wait, and for how many workers: this one included, and for a minute also
        one that died."""
        with self.connection.pipeline(transaction=False) as pipeline:
            pipeline.llen(self.queue.key)
            pipeline.scard(WORKERS_BY_QUEUE_KEY % self.queue.name)
            waiting, workers = pipeline.execute()
        return waiting, workers

    def stop_scheduler(self) -> None:
        """Called by `teardown`; ours is no process."""
        assert self.scheduler is not None
        self.scheduler.release_locks()
        self.scheduler.register_death()

    def _idle_if_empty(self) -> None:
        if not self.executions:
            self.set_state(WorkerStatus.IDLE)

"""`Bookkeeper`: an RQ worker without a loop, that can have many jobs in flight.

Reports to RQ that a job starts, ends, lives, is stopped or is given back, so that `rq info` and the
registries show the truth. What a job does is none of its concern.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, cast

from redis.client import Pipeline, PubSub, PubSubWorkerThread
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue, worker_registration
from rq.command import parse_payload
from rq.exceptions import DeserializationError
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.worker.base import BaseWorker, WorkerStatus

from jobs.queue.job import BatchJob
from jobs.queue.run_jobs import enqueue_now
from worker.rq.maintenance import Maintenance
from worker.rq.sweep import sweep_dependents

logger = logging.getLogger("mlx_batch.worker")

LEASE = 10  # seconds a worker counts as alive after its last heartbeat, by Redis' clock
HEARTBEAT = 2  # seconds between heartbeats
# Seconds. RQ gives up jobs by the clock of any process that looks, also `rq info`: not before us.
EXECUTION_TTL = 7 * 24 * 3600


class Bookkeeper(BaseWorker):
    """One queue, no fork, one thread for all of RQ.

    With one queue RQ moves a job through an intermediate list, so a crash between taking and
    starting it loses nothing; with several it would.

    Args:
        in_hand: whether this worker works on the job of an id.

    Attributes:
        to_stop: ids of jobs that a command of `rq` asks to stop.
    """

    job_class = BatchJob

    def __init__(self, queue: Queue, name: str | None, in_hand: Callable[[str], bool]) -> None:
        super().__init__(
            [queue],
            name=name,
            connection=queue.connection,
            serializer=JSONSerializer,
            job_class=BatchJob,
            worker_ttl=LEASE,
            job_monitoring_interval=HEARTBEAT,
            log_job_description=False,
        )
        self.queue = queue
        self.to_stop: set[str] = set()
        self._in_hand = in_hand
        self._is_abandoned = False
        self.maintenance = Maintenance(queue, self.name, LEASE, in_hand)

    def register(self) -> None:
        """Make the worker known in Redis and listen for commands.

        Raises:
            ValueError: a worker of this name is at work.
        """
        self.announce()
        self.bootstrap(None)
        self.heartbeat()
        self.maintenance.scheduler.register_birth()

    def announce(self) -> None:
        """Let the queue stand among those that RQ knows, though no job may have been in it."""
        self.connection.sadd(Queue.redis_queues_keys, self.queue.key)

    def teardown(self) -> None:
        """Remove the worker from Redis and stop listening for commands."""
        self.maintenance.scheduler.stop()
        super().teardown()

    # One job.

    def drop(self, job: Job) -> None:
        """Forget a job that was dequeued a second time while a worker holds it."""
        self.queue.intermediate_queue.remove(job.id)

    def is_held(self, job: Job) -> bool:
        """Whether a worker has begun a job that was just dequeued: it stood in the queue twice.

        If that worker is dead, maintenance puts the job back.
        """
        return job.get_status(refresh=False) is JobStatus.STARTED and bool(self._holders(job.id))

    def begin(self, job: Job) -> Execution:
        """Start an execution of the job on this worker."""
        execution = self.prepare_execution(job)
        with contextlib.suppress(DeserializationError):  # it wants the name for the process title
            self.prepare_job_execution(job, remove_from_intermediate_queue=True)
        return execution

    def holds(self, execution: Execution) -> bool:
        """Whether the job is still ours: another worker may have taken it meanwhile."""
        started = self.queue.started_job_registry.key
        return self.connection.zscore(started, execution.composite_key) is not None

    def let_go(self, execution: Execution) -> None:
        """Forget a job that is not ours any more, and leave its record alone."""
        logger.warning("job %s was taken over while this worker was suspended", execution.job_id)
        self.executions.pop(execution.id, None)
        ours = execution.composite_key
        # If no other worker holds the job, maintenance finds it by our entry.
        if self._holders(execution.job_id) - {ours.encode()}:
            self.connection.zrem(self.queue.started_job_registry.key, ours)
        self.connection.srem(self.executions_key, ours)
        self._idle_if_empty()

    def _holders(self, job_id: str) -> set[bytes]:
        """Return the entries of a job among those that have begun."""
        key, begins = self.queue.started_job_registry.key, f"{job_id}:".encode()
        entries = cast(list[bytes], self.connection.zrange(key, 0, -1))
        return {entry for entry in entries if entry.startswith(begins)}

    def succeed(self, execution: Execution) -> None:
        """Mark the job as finished and release its dependents."""
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
        """Mark the job as failed; RQ retries it as long as it has retries left."""
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
        """Mark the job as stopped on request: neither failed nor retried."""
        self._stopped_job_id = execution.job_id
        self.fail(execution, InterruptedError("stopped on request"))

    def give_back(self, execution: Execution) -> None:
        """Put the job back to the front of its queue, with no retry spent."""
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(execution.job, pipeline=pipeline, execution=execution)
            enqueue_now(self.queue, execution.job, pipeline, at_front=True)
            pipeline.execute()

    def forget(self, execution: Execution) -> None:
        """Forget an execution whose record is gone."""
        self.executions.pop(execution.id, None)
        self._idle_if_empty()

    # All of them, by the clock.

    def send_heartbeats(self) -> None:
        """Renew this worker's record, by which its jobs are held."""
        with self.connection.pipeline() as pipeline:
            self.heartbeat(pipeline=pipeline)
            pipeline.hexists(self.key, "birth")
            *_, is_known = pipeline.execute()
            # It had expired: Redis was away, or we were suspended. A job begun since has made a
            # record again, but without the fields that other workers look at.
            if not is_known:
                pipeline.hset(self.key, mapping=self.serialize())
                pipeline.hset(self.key, "state", self.get_state())
                worker_registration.register(self, pipeline)
                pipeline.expire(self.key, LEASE)
                if held := [each.composite_key for each in self.executions.values()]:
                    pipeline.sadd(self.executions_key, *held)
                    pipeline.expire(self.executions_key, LEASE)
                pipeline.execute()
        self.maintenance.note_heartbeat()

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:  # noqa: ARG002
        """Extend the record by `LEASE` seconds, whatever RQ asks for."""
        super().heartbeat(LEASE, pipeline)

    def forget_lost(self) -> None:
        """Forget the executions whose job did not begin because Redis failed meanwhile."""
        lost = [each for each in self.executions.values() if not self._in_hand(each.job_id)]
        for execution in lost:
            del self.executions[execution.id]
        if lost:
            self._idle_if_empty()

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:  # noqa: ARG002
        """Return the seconds until RQ itself takes a job for lost."""
        return EXECUTION_TTL

    # Commands, and the end.

    def handle_payload(self, message: Any) -> None:
        """Handle a command of `rq`, on RQ's thread; each of many jobs can be stopped."""
        try:
            payload = parse_payload(message)
            if payload["command"] in ("stop-job", "stop-execution"):
                self.to_stop.add(str(payload["job_id"]))
            else:
                super().handle_payload(message)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            logger.warning("a malformed command was ignored: %s", type(error).__name__)

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
        """End without writing to Redis, which is gone."""
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

    def _idle_if_empty(self) -> None:
        if not self.executions:
            self.set_state(WorkerStatus.IDLE)

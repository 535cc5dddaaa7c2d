"""`BatchWorker`: keeps one engine full with the rows of many jobs.

This thread does RQ's bookkeeping and the dataset, the engine's thread does MLX. The loop is
`admit → settle → tend`.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from rq.executions import Execution
from rq.job import Job

from jobs.connection import is_passing
from jobs.dataset import Dataset
from jobs.errors import JobPayloadError, LeaseLostError, LedgerError
from jobs.ledger import Ledger, ShardLease
from jobs.queue.run_jobs import open_queue
from jobs.queue.tasks import GenerateShard, read_task
from jobs.run_spec import QUEUE_PREFIX, RunSpec, queue_name
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.outputs import EngineStats
from vllm_mlx.scheduler_config import WINDOW
from worker.awake import kept_awake
from worker.flight import FinalizeFlight, Flight, ShardFlight, TextEngine
from worker.live import LiveCounts
from worker.output_root import OutputRoot
from worker.rq.bookkeeper import HEARTBEAT, MAINTENANCE, TIDY, Bookkeeper
from worker.statistics import Meter, Statistics
from worker.status import waiting_queues

logger = logging.getLogger("mlx_batch.worker")

TICK = 0.2  # seconds the loop waits at most for the engine before it looks around
REPORT = 60  # seconds between log lines of what the engine does
# Rows held, in batches: one runs, one waits so that no place stays empty. More only as long as no
# other worker goes short of them: the engine orders the rows of a whole window, and fills it.
LOOKAHEAD = 2
FULL_WINDOW = 1 + WINDOW


class BatchWorker(Bookkeeper):
    """Pulls the jobs of one model and answers their rows in one batch.

    Args:
        model: the model's name; the queue is named after it.
        engine: what answers rows.
        grace: seconds that jobs may go on after a stop was asked for, before they are given back.
        redis_timeout: seconds to wait for a Redis that went away.
        output_root: a run whose folder is not below this one is refused; None takes every run.
    """

    def __init__(
        self,
        model: str,
        engine: TextEngine,
        *,
        connection: Redis,
        name: str | None = None,
        grace: float = 10.0,
        redis_timeout: float = 300.0,
        output_root: Path | None = None,
    ) -> None:
        from_queue = open_queue(connection, queue_name(model))
        super().__init__(from_queue, connection=connection, name=name, grace=grace)
        self.model = model
        self.flights: dict[str, Flight] = {}
        self._engine = engine
        self._redis_timeout = redis_timeout
        self._output_root = OutputRoot.of(output_root)
        self._ledger = Ledger(connection)
        self._live = LiveCounts(self._ledger, self.name, model)
        self._meter = Meter()
        self._specs: dict[str, RunSpec] = {}
        self._ended: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._complete: deque[Flight] = deque()
        self._again: list[tuple[float, ShardFlight, int]] = []
        self._background = ThreadPoolExecutor(1, thread_name_prefix="finalize")
        self._due = {self._report.__name__: time.monotonic() + REPORT}
        self._told = ""
        self._gave_up_redis = False
        self._to_stop: set[str] = set()

    def work(self, burst: bool = False) -> bool:  # type: ignore[override]
        """Work until stopped; with `burst`, until nothing is left to do.

        Returns:
            Whether any job was executed.

        Raises:
            ModelLoadError: the model can't be loaded; Redis was not touched.
            ValueError: a worker of this name is at work.
            EngineStoppedError: the engine has ended; its jobs were given back.
            redis.exceptions.RedisError: Redis was away, or full, for longer than `redis_timeout`.
        """
        self._engine.start()
        self.register()
        try:
            with kept_awake():
                self._work(burst)
            self.settle()  # what ended in the last moment
        finally:
            self._shut_down()
        return bool(self.successful_job_count + self.failed_job_count)

    def _work(self, burst: bool) -> None:
        lost_at: float | None = None
        while True:
            began = time.monotonic()
            try:
                if self._is_over(burst):
                    return
                self.admit(wait=not burst)
                self.settle()
                self.tend()
                lost_at = None
            except RedisError as error:
                if not is_passing(error):
                    raise
                lost_at = lost_at or began  # a frozen server takes its time to fail
                self._wait_for_redis(error, time.monotonic() - lost_at)

    def admit(self, *, wait: bool) -> None:
        """Start as many jobs as it takes to keep every place of the engine filled.

        Args:
            wait: when there is nothing else to do, wait in Redis for a job.
        """
        if (
            self.stop_requested
            or not self._has_room()
            or self._due.get("admit", 0) > time.monotonic()
        ):
            return
        if self.is_suspended():
            self._pause("admit")
            return
        while True:
            job = self.dequeue(1 if wait and not self.flights else None)
            if job is None:
                self._pause("admit")
                self._tell_if_others_wait()
                return
            self._start(job)
            if self.stop_requested or not self._has_room():
                return

    def settle(self) -> None:
        """Take what the engine has answered and record it; commit the shards that are whole."""
        try:
            self._ended.get(timeout=0 if self._complete or not self.flights else TICK)()
            while True:
                self._ended.get_nowait()()
        except queue.Empty:
            pass
        for flight in [f for f in self.flights.values() if isinstance(f, ShardFlight)]:
            self._save(flight)
        while self._complete:
            self._conclude(self._complete[0])  # if Redis fails here, it is tried again
            self._complete.popleft()

    def tend(self) -> None:
        """What is due by the clock. What fails here is due still, so our life comes first."""
        self._every(HEARTBEAT, self.send_heartbeats)
        self._to_stop = (self._to_stop | self.jobs_to_stop()) & self.flights.keys()
        for job_id in self._to_stop:
            flight = self.flights[job_id]
            self._break_off(flight, partial(self.stop, flight.execution))
        self._submit_again()
        self._every(1, self._end_overdue_jobs)
        self._every(1, self._publish)
        self._every(REPORT, self._report)
        self._every(1, self.enqueue_delayed_retries)
        self._every(MAINTENANCE, self.run_maintenance_tasks)
        self._every(TIDY, self.tidy)

    # A job, from its start to its end.

    def _start(self, job: Job) -> None:
        if flight := self.flights.get(job.id):
            self._meet_again(flight, job)
            return
        if self.is_held(job):  # enqueued twice
            self.drop(job)
            return
        execution = self.begin(job)
        try:
            task = read_task(job)
            spec = self._spec(task.run_id)
        except MLXBatchError as error:
            self.fail(execution, error, retry=False)
            return
        if isinstance(task, GenerateShard):
            self._start_shard(execution, spec, task)
        else:
            self._start_finalize(FinalizeFlight(execution=execution, spec=spec))

    def _meet_again(self, flight: Flight, job: Job) -> None:
        """A job that is in flight was dequeued."""
        if self.holds(flight.execution):  # enqueued twice
            self.drop(job)
        else:  # taken back while we slept: it is ours again, with all that is done of it
            self.let_go(flight.execution)
            flight.execution = self.begin(job)

    def _start_shard(self, execution: Execution, spec: RunSpec, task: GenerateShard) -> None:
        try:
            lease = ShardLease.claim(self.connection, spec.run_id, task.shard)
        except LedgerError as error:
            self.fail(execution, error, retry=False)
            return
        if lease is None:
            self.succeed(execution)
            return
        flight = ShardFlight(
            execution=execution, spec=spec, task=task, lease=lease, worker=self.name
        )
        self.flights[flight.job.id] = flight
        flight.launch(self._engine, self._row_ended)
        self._look_if_complete(flight)

    def _row_ended(self, flight: ShardFlight, index: int) -> None:
        self._ended.put(partial(self._answer, flight, index))  # called on the engine's thread

    def _answer(self, flight: ShardFlight, index: int) -> None:
        again_after = flight.settle(index)
        if again_after is not None:
            self._again.append((time.monotonic() + again_after, flight, index))
        self._look_if_complete(flight)

    def _look_if_complete(self, flight: ShardFlight) -> None:
        if flight.is_complete and flight not in self._complete:
            self._complete.append(flight)

    def _submit_again(self) -> None:
        """Rows at which the engine failed, when it is time."""
        due = [each for each in self._again if each[0] <= time.monotonic()]
        for each in due:
            self._again.remove(each)
            _, flight, index = each
            if self.flights.get(flight.job.id) is flight:
                flight.submit(self._engine, [index], self._row_ended)
                self._look_if_complete(flight)

    def _save(self, flight: ShardFlight) -> None:
        """Make what has ended of a shard last."""
        try:
            flight.save()
        except LeaseLostError:
            self._end(flight, lambda: None, is_ours=False)
        except LedgerError as error:  # somebody else wrote there: of no use to try again
            self._break_off(flight, partial(self.fail, flight.execution, error, retry=False))

    def _start_finalize(self, flight: FinalizeFlight) -> None:
        self.flights[flight.job.id] = flight
        flight.done = self._background.submit(Dataset(Path(flight.spec.out)).finalize)
        flight.done.add_done_callback(
            lambda _: self._ended.put(partial(self._complete.append, flight))
        )

    def _conclude(self, flight: Flight) -> None:
        """End a job that has all its answers. Every step may be repeated, and all may be."""
        if self.flights.get(flight.job.id) is not flight:  # stopped meanwhile
            return
        execution = flight.execution
        try:
            self._commit(flight)
        except RedisError:
            raise
        except LeaseLostError:
            self._end(flight, lambda: None, is_ours=False)
            return
        except Exception as error:  # whatever a file system or a row can raise
            retry = not isinstance(error, (JobPayloadError, LedgerError))
            self._break_off(flight, partial(self.fail, execution, error, retry=retry))
        else:
            self._end(flight, partial(self.succeed, execution))
        self._publish()

    def _end(self, flight: Flight, end: Callable[[], None], *, is_ours: bool | None = None) -> None:
        """Tell RQ how a job ended, unless it is somebody else's by now; take it out of flight."""
        if is_ours is None:
            is_ours = self.holds(flight.execution)
        if is_ours:
            end()
        else:
            self.let_go(flight.execution)
        self._land(flight)

    def _break_off(self, flight: Flight, end: Callable[[], None]) -> None:
        """End a job that is not done. Nobody died of it: who claims it next must not think so."""
        if isinstance(flight, ShardFlight):
            with contextlib.suppress(LeaseLostError, LedgerError):
                flight.lease.release()
        self._end(flight, end)

    def _commit(self, flight: Flight) -> None:
        """Make the job's work last.

        A shard that RQ has taken from us is still ours to commit until somebody claims it.

        Raises:
            DatasetError: the part can't be written, or the dataset does not verify.
            LeaseLostError: another worker has claimed the shard.
        """
        spec = flight.spec
        if isinstance(flight, ShardFlight):
            flight.save()
            dataset, counts = Dataset(Path(spec.out)), flight.counts()
            dataset.prepare(spec.manifest())
            dataset.write_part(flight.task.shard, flight.rows(), check=flight.lease.check)
            flight.lease.commit(counts)
            return
        assert isinstance(flight, FinalizeFlight)
        assert flight.done is not None
        flight.done.result()
        if self.holds(flight.execution):
            self._ledger.finish(spec.run_id)
            logger.info("%s is complete: %s", spec.run_id, spec.out)

    def _land(self, flight: Flight) -> Execution:
        """Take a job out of flight, with whatever of it still runs."""
        flight.cancel()
        self.flights.pop(flight.job.id, None)
        return flight.execution

    def _spec(self, run_id: str) -> RunSpec:
        if run_id not in self._specs:
            spec = self._ledger.spec(run_id)
            if spec.queue != self.queue.name:
                raise JobPayloadError(f"{run_id} wants {spec.model}, this worker has {self.model}")
            self._output_root.check(run_id, spec.out)
            self._specs[run_id] = spec
        return self._specs[run_id]

    # Around the loop.

    def _has_room(self) -> bool:
        if self._complete:  # commit first: jobs that need no engine would pile up
            return False
        held = sum(flight.rows_in_engine for flight in self.flights.values())
        batches = held / self._engine.max_num_seqs
        return batches < LOOKAHEAD or (batches < FULL_WINDOW and self._others_have_enough())

    def _others_have_enough(self) -> bool:
        """Whether every other worker could take as many jobs as are held here."""
        waiting, workers = self.waiting_and_workers()
        return waiting > 0 and waiting >= (workers - 1) * len(self.flights)

    def has_in_hand(self, job_id: str) -> bool:
        return job_id in self.flights

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        if time.monotonic() >= self._due.get(act.__name__, 0):
            act()
            self._due[act.__name__] = time.monotonic() + seconds

    def _pause(self, what: str) -> None:
        """Ask Redis again only after a tick; when idle, by sleeping for it."""
        self._due[what] = time.monotonic() + TICK
        if not self.flights:
            time.sleep(TICK)

    def _end_overdue_jobs(self) -> None:
        for flight in [f for f in self.flights.values() if f.deadline < time.monotonic()]:
            error = TimeoutError(f"the job took longer than {flight.job.timeout} s")
            self._break_off(flight, partial(self.fail, flight.execution, error))

    def _publish(self) -> None:
        self._live.publish(self._engine.stats)

    def _report(self) -> None:
        """Log what the engine did since the last time, unless it was idle."""
        statistics = self._meter.read(self._engine.stats)
        if not statistics.is_idle:
            logger.info("%s", statistics)

    def _report_all(self) -> None:
        statistics = Statistics.between(EngineStats(), self._engine.stats)
        if not statistics.is_idle:
            logger.info("in all: %s", statistics)

    def _tell_if_others_wait(self) -> None:
        if self.flights:
            return
        others = waiting_queues(self.connection)
        others.pop(self.queue.name, None)
        told = ", ".join(
            f"{name.removeprefix(QUEUE_PREFIX)} ({count})"
            for name, count in sorted(others.items())
            if count
        )
        if told and told != self._told:
            logger.warning("no jobs for %s; jobs wait for: %s", self.model, told)
        self._told = told

    def _is_over(self, burst: bool) -> bool:
        if self.stop_requested:
            return not self.flights or self.grace_is_over
        return burst and not self.flights and (self.is_suspended() or self.nothing_is_left())

    def _wait_for_redis(self, error: Exception, away: float) -> None:
        if away > self._redis_timeout:
            self._gave_up_redis = True
            raise error
        logger.warning("Redis fails for %.0f s, the engine goes on: %s", away, error)
        time.sleep(min(5.0, 0.5 + away / 4, self._redis_timeout - away))

    def _shut_down(self) -> None:
        try:
            self._report_all()
            if self._gave_up_redis:  # our jobs are taken back when our heartbeats have run out
                self.abandon()
                return
            for flight in reversed(list(self.flights.values())):  # each goes to the front
                self._break_off(flight, partial(self.give_back, flight.execution))
            self._ledger.forget_live(self.name)
            self.teardown()
        finally:
            self._background.shutdown()
            self._engine.stop()

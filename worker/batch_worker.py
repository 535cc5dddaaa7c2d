"""`BatchWorker`: keeps one engine full with the rows of many jobs.

Its thread talks to Redis and writes the dataset, the engine's thread runs MLX. The loop is
`admit → settle → tend`.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow.dataset  # noqa: F401  # brings pandas, for which the first part would wait
from redis import Redis

from jobs.model_identity import identify
from jobs.queue.queue_state import QueueState
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import queue_name
from worker.awake import kept_awake
from worker.engine.text_engine import WorkerEngine
from worker.flights.flights import Flights
from worker.flights.sharing import Sharing
from worker.idle_notice import IdleNotice
from worker.output_root import OutputRoot
from worker.redis_patience import RedisPatience
from worker.rq.bookkeeper import HEARTBEAT, Bookkeeper
from worker.rq.dequeue import dequeue
from worker.rq.maintenance import MAINTENANCE, TIDY
from worker.status.live import LiveCounts
from worker.stop_signal import StopSignal
from worker.timer import Timer
from worker.work_log import WorkLog

logger = logging.getLogger("mlx_batch.worker")

TICK = 0.2  # seconds the loop waits at most for the engine before it checks its timers
ADMIT = 0.2  # seconds that jobs are taken before answers are: thousands may be set aside
REPORT = 60  # seconds between log lines of what the engine does


class BatchWorker:
    """Pulls the jobs of one model and answers their rows in one batch.

    Args:
        model: a hub id, a folder, a `.gguf` file or an alias; the queue is named after its
            `ModelIdentity`, and jobs of runs with another one are refused.
        adapter: the folder of the adapter that the engine has put into it; part of the identity.
        engine: what answers rows.
        name: the worker's name; by default a random one.
        grace: seconds that rows under way may go on after a stop was asked for; their jobs are
            given back with what is done of them.
        redis_timeout: seconds to wait for a Redis that went away.
        output_root: a run whose folder is not below this one is refused; None takes every run.
        report_media: flags that say what the reports at the end of runs may read for pictures;
            None writes no reports.

    Raises:
        InvalidRequestError: `output_root` is not a folder.
    """

    def __init__(
        self,
        model: str,
        engine: WorkerEngine,
        *,
        connection: Redis,
        adapter: Path | None = None,
        name: str | None = None,
        grace: float = 10.0,
        redis_timeout: float = 300.0,
        output_root: Path | None = None,
        report_media: Sequence[str] | None = None,
    ) -> None:
        self.stop_signal = StopSignal(grace)
        self._is_winding_down = False
        self._engine = engine
        self._identify = partial(identify, model, adapter)
        model = self._identify().name
        self._queue = open_queue(connection, queue_name(model))
        self.bookkeeper = bookkeeper = Bookkeeper(
            self._queue, name, in_hand=lambda job_id: job_id in self.flights
        )
        root = OutputRoot(output_root)
        self.flights = Flights(bookkeeper, model, engine, root, report_media)
        self._live = LiveCounts(
            connection, bookkeeper.name, model, self._queue.name, output_root=str(root) or None
        )
        self._log = WorkLog(engine)
        self._sharing = Sharing(connection, self._queue.name, bookkeeper.name)
        self._idle_notice = IdleNotice(connection, model)
        self._patience = RedisPatience(redis_timeout)
        self._admission = Timer(TICK)
        self._chores: list[tuple[Timer, Callable[[], None]]] = [
            (Timer(HEARTBEAT), bookkeeper.send_heartbeats),  # first: by it our jobs are held
            (Timer(0), self.flights.stop_on_command),
            (Timer(0), self.flights.submit_again),
            (Timer(1), self.flights.heed_halts),
            (Timer(1), self._hand_over),
            (Timer(0), self._wind_down),
            (Timer(1), self.flights.hand_out),
            (Timer(1), self.flights.fail_overdue),
            (Timer(1), self._publish),
            (Timer(REPORT, due_at=time.monotonic() + REPORT), self._log.recent),
            (Timer(1), bookkeeper.maintenance.enqueue_delayed_retries),
            (Timer(MAINTENANCE), bookkeeper.forget_lost),
            (Timer(MAINTENANCE), bookkeeper.maintenance.take_back_lost),
            (Timer(TIDY), bookkeeper.maintenance.tidy),
        ]

    def work(self, burst: bool = False) -> None:
        """Work until stopped; with `burst`, until nothing is left to do.

        Raises:
            ModelLoadError: the model can't be loaded; nothing stays in Redis.
            ValueError: a worker of this name is at work.
            EngineStoppedError: the engine has ended; its jobs were given back.
            redis.exceptions.RedisError: Redis was away, or full, for longer than `redis_timeout`.
        """
        self.bookkeeper.announce()
        self._log.loading(self._identify().name)
        with self._live.loading():
            self._engine.start()
        name, self.flights.revision = self._identify()  # the engine may have fetched it
        self.register()
        try:
            with self._patience.one_turn():
                self._log.ready(name, self._queue.name, self._queue.count)
            with kept_awake():
                self._work(burst)
            self.settle()  # what ended in the last moment
        finally:
            self.shut_down()

    def _work(self, burst: bool) -> None:
        while True:
            with self._patience.one_turn():
                if self._is_over(burst):
                    if burst:
                        self._idle_notice.log()
                    return
                self.admit(wait=not burst)
                self.settle()
                self.tend()

    def register(self) -> None:
        """Make the worker known in Redis and listen for signals.

        Raises:
            ValueError: a worker of this name is at work.
        """
        self.bookkeeper.register()
        self.stop_signal.listen()

    def admit(self, *, wait: bool) -> None:
        """Start as many jobs as it takes to keep every slot of the engine filled.

        Args:
            wait: when there is nothing else to do, wait in Redis for a job.
        """
        if not self._admission.is_due or not self._wants_jobs():
            return
        if self.bookkeeper.is_suspended():
            self._rest()
            return
        until = time.monotonic() + ADMIT
        while job := dequeue(self._queue, 1 if wait and not self.flights else None):
            self.flights.start(job)
            if not self._wants_jobs() or time.monotonic() > until:
                return
        self._rest()
        if not self.flights:
            self._idle_notice.log()

    def settle(self) -> None:
        """Take what the engine has answered and record it; commit the shards that are whole."""
        inbox = self.flights.inbox
        try:
            inbox.get(timeout=TICK if self.flights and not self.flights.complete else 0)()
            while True:
                inbox.get_nowait()()
        except queue.Empty:
            pass
        self.flights.save()
        for flight in self.flights.complete:
            self.flights.commit(flight)
            self._publish()

    def tend(self) -> None:
        """Do what is due by the clock. What fails stays due."""
        for timer, act in self._chores:
            if timer.is_due:
                act()
                timer.restart()

    def _wants_jobs(self) -> bool:
        if self.stop_signal.is_requested:
            return False
        if self.flights.complete:  # commit first: jobs that need no engine would pile up
            return False
        batches = self.flights.rows_in_engine / self._engine.max_num_seqs
        self._sharing.look(len(self.flights))
        return self._sharing.wants(len(self.flights), batches)

    def _hand_over(self) -> None:
        """Let workers that have nothing have what waits here."""
        held = len(self.flights)
        self._sharing.look(held)
        self.flights.hand_over(self._sharing.surplus(held))

    def _wind_down(self) -> None:
        """Once a stop was asked for, begin no more rows; what others can do goes back at once."""
        if self.stop_signal.is_requested and not self._is_winding_down:
            self.flights.hand_over(len(self.flights))
            self._is_winding_down = True

    def _rest(self) -> None:
        """Ask Redis for a job again only after a tick; when idle, with a pause."""
        self._admission.restart()
        if not self.flights:
            time.sleep(TICK)

    def _publish(self) -> None:
        self._live.publish(self._engine.stats, len(self.flights))

    def _is_over(self, burst: bool) -> bool:
        if self.stop_signal.is_requested:
            return not self.flights or self.stop_signal.grace_is_over
        return (
            burst
            and not self.flights
            and (self.bookkeeper.is_suspended() or QueueState(self._queue).is_empty())
        )

    def shut_down(self) -> None:
        """Give all jobs back, leave Redis and stop the engine."""
        try:
            self._log.total()
            if self._patience.is_over:  # our jobs are taken back when our record has expired
                self.bookkeeper.abandon()
                return
            self.flights.give_back()
            self._live.conclude(self._engine.stats)
            self.bookkeeper.teardown()
        finally:
            self.flights.close()
            self._engine.stop()

"""`Bench`: an empty Redis, a folder, and the workers of one test."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis
from rq.job import Job

from jobs.connection import connect
from jobs.ledger import Ledger, RunState
from jobs.ledger.keys import steady_key
from jobs.run_spec import RunSpec
from tests.helpers.engines import MODEL, DoubleEngine, enqueue, job_of, status_of, wait_for
from worker.batch_worker import BatchWorker
from worker.rq.bookkeeper import LEASE


class Bench:
    """What a test of workers has before it.

    Attributes:
        redis: a connection to a server that held nothing.
        url: of that server.
        folder: for prompt files and datasets.
    """

    def __init__(self, redis: Redis, url: str, folder: Path) -> None:
        self.redis = redis
        self.url = url
        self.folder = folder
        self._workers: list[BatchWorker] = []
        self._processes: list[subprocess.Popen[str]] = []

    def close(self) -> None:
        for worker in self._workers:
            worker.shut_down()
            worker.bookkeeper.connection.close()
        for process in self._processes:
            process.kill()
            process.wait()

    # A run.

    def enqueue(
        self, rows: int, shard_size: int, *, say: str = "prompt", **options: Any
    ) -> RunSpec:
        """Enqueue a run of made-up prompts, with its dataset at `folder/say`."""
        return enqueue(self.redis, self.folder, rows, shard_size, say=say, **options)

    def job(self, spec: RunSpec, shard: int | None = None) -> Job:
        """The RQ job of a shard, or the finalize job, as it is in Redis now."""
        return job_of(self.redis, spec, shard)

    def status(self, spec: RunSpec, shard: int | None = None) -> str:
        return status_of(self.redis, spec, shard)

    # Workers.

    def burst(self, engine: DoubleEngine, model: str = MODEL, **options: Any) -> BatchWorker:
        """Run all that is enqueued, in this process."""
        return work_in_burst(self.url, engine, model, **options)

    def worker(self, engine: DoubleEngine, model: str = MODEL, **options: Any) -> BatchWorker:
        """Register a worker whose steps the test takes: `admit`, `settle`, `tend`.

        Its own loop would run on: no state could be held and looked at.
        """
        worker = BatchWorker(model, engine, connection=connect(self.url), **options)
        engine.start()
        worker.register()
        self._workers.append(worker)
        return worker

    def process(
        self, *options: str, name: str = "other", until: Callable[[], object]
    ) -> subprocess.Popen[str]:
        """Start `tests.helpers.double_worker` and wait until it is at work."""
        command = [sys.executable, "-m", "tests.helpers.double_worker", self.url, name, *options]
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, text=True)
        self._processes.append(process)
        wait_for(until)
        return process

    # In place of waiting for a lease without heartbeats.

    def expire_records(self, *alive: BatchWorker) -> None:
        """Forget all workers but these."""
        for key in self.redis.keys("rq:worker:*"):
            if key.decode() not in {worker.bookkeeper.key for worker in alive}:
                self.redis.delete(key)

    def stay_steady(self, worker: BatchWorker) -> None:
        """Let it be as long as a lease that this worker's heartbeats come regularly."""
        self.redis.set(steady_key(worker.bookkeeper.queue.name), int(time.time()) - LEASE)
        worker.bookkeeper.send_heartbeats()

    def take_over(self, worker: BatchWorker) -> None:
        """What `tend` does in the course of a lease."""
        self.expire_records(worker)
        self.stay_steady(worker)
        worker.bookkeeper.forget_lost()
        worker.bookkeeper.maintenance.take_back_lost()
        self.be_due(worker)

    def be_due(self, worker: BatchWorker) -> None:
        """Let all be due that a worker does by the clock, asking for jobs included."""
        timers = (worker._admission, worker._sharing.timer)
        for timer in (*timers, *(timer for timer, _ in worker._chores)):
            timer.due_at = 0.0

    def step(self, *workers: BatchWorker) -> None:
        """Let each do once what its loop does, by the clock, too."""
        for worker in workers:
            self.be_due(worker)
            worker.admit(wait=False)
            worker.settle()
            worker.tend()

    def finish(self, spec: RunSpec, worker: BatchWorker) -> None:
        """Step the worker until the run is finished."""

        def is_finished() -> bool:
            worker.admit(wait=False)
            worker.settle()
            return Ledger(self.redis).progress(spec.run_id).state is RunState.FINISHED

        wait_for(is_finished)


def work_in_burst(
    redis_url: str, engine: DoubleEngine, model: str = MODEL, **options: Any
) -> BatchWorker:
    """Run all that is enqueued, in this process; stopped if there is no end to it."""
    with connect(redis_url) as connection:
        worker = BatchWorker(model, engine, connection=connection, grace=0, **options)
        watchdog = threading.Timer(20, worker.stop_signal.request, (signal.SIGTERM, None))
        watchdog.start()
        try:
            worker.work(burst=True)
        finally:
            watchdog.cancel()
            watchdog.join()
    return worker

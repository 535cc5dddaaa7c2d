"""`mlx-batch run`: server, producer, workers, progress and verification in one command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from jobs.connection import connect
from jobs.dataset import Dataset, Verification, verify
from jobs.producer import Enqueued
from jobs.queue.run_jobs import open_queue
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.scheduler_config import SchedulerConfig
from worker.cli.options import media_flags, scheduler_flags
from worker.embedded_redis import EmbeddedRedis
from worker.rq.maintenance import take_back_all
from worker.status import RunStatus, run_status

POLL = 0.5  # seconds


class RunFailedError(MLXBatchError):
    """A worker ended, or a job failed for good, before the run was complete."""


@dataclass(slots=True)
class WorkerProcess:
    """A worker as our child, with its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self, lines: int = 12) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def redis_server(url: str | None, out: Path) -> Iterator[str]:
    """The URL given, or that of an embedded server whose data lies in `out/_job/redis`."""
    if url:
        yield url
        return
    with EmbeddedRedis(out / "_job" / "redis") as server:
        yield server.url


def run(
    url: str | None,
    out: Path,
    *,
    enqueue: Callable[[Redis], Enqueued],
    workers: int,
    config: SchedulerConfig,
    media: MediaPolicy,
    show: Callable[[RunStatus], None],
) -> Verification:
    """Enqueue, work, and verify.

    Args:
        enqueue: puts the run into Redis.
        config: bounds of each worker's engine.
        media: what it may read besides the input's own folder: whoever runs this named that.
        show: told the state twice a second.

    Raises:
        RunFailedError: the run can't be completed; it can be resumed.
    """
    with redis_server(url, out) as server_url:
        connection = connect(server_url)
        enqueued = enqueue(connection)
        spec = enqueued.spec
        if not Dataset(out).is_whole(spec.shards):
            if url is None:
                take_back_all(open_queue(connection, spec.queue))
            paths = [enqueued.folder, *(media.allowed_paths or ())]
            allowed = MediaPolicy.of(paths, media.allowed_domains or (), media.video_reader)
            flags = [*scheduler_flags(config), *media_flags(allowed)]
            with _workers(server_url, spec.model, out, workers, flags) as processes:
                _watch(connection, spec.run_id, processes, show)
    verification = verify(out)
    if not verification.complete:
        raise RunFailedError(f"{out}: " + "; ".join(verification.problems))
    if url is None:
        shutil.rmtree(out / "_job" / "redis", ignore_errors=True)
    return verification


def _watch(
    connection: Redis,
    run_id: str,
    processes: list[WorkerProcess],
    show: Callable[[RunStatus], None],
) -> None:
    while True:
        alive = any(worker.process.poll() is None for worker in processes)
        status = run_status(connection, run_id)
        show(status)
        if status.is_finished:
            return
        if status.errors:
            reasons = "\n".join(f"{job_id}: {why}" for job_id, why in status.errors.items())
            raise RunFailedError(f"{run_id} can't be completed:\n{reasons}")
        if not alive:
            raise RunFailedError(
                f"no worker is left and {run_id} is not complete; --resume goes on. "
                f"{processes[0].log} ends:\n{processes[0].last_words()}"
            )
        time.sleep(POLL)


@contextmanager
def _workers(
    url: str, model: str, out: Path, count: int, flags: list[str]
) -> Iterator[list[WorkerProcess]]:
    processes: list[WorkerProcess] = []
    try:
        for number in range(count):
            processes.append(_start_worker(url, model, out, number, count, flags))
        yield processes
    finally:
        for worker in processes:
            if worker.process.poll() is None:
                worker.process.terminate()
        for worker in processes:
            worker.process.wait()


def _start_worker(
    url: str, model: str, out: Path, number: int, count: int, flags: list[str]
) -> WorkerProcess:
    log = out / "_job" / f"worker-{number}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "worker.cli", "worker", "--burst", "--model", model]
    command += ["--output-root", str(out), *flags]
    if url.startswith("unix:"):
        # Our own server: when it is gone, so are we, and nobody will bring it back.
        command += ["--redis-timeout", "5"]
    # The URL may hold a password: not on a command line that others can list.
    environment = {**os.environ, "RQ_REDIS_URL": url}
    if count > 1:
        # Several BLAS threads on cores that others use are many times slower than one.
        environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us, and we stop the workers in order
        )
    return WorkerProcess(process, log)

"""`mlx-batch run`: server, producer, workers, progress and verification in one command."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import click
from redis import Redis

from jobs.connection import connect
from jobs.dataset import Dataset, Verification, verify
from jobs.errors import RunHaltedError
from jobs.preparation import PreparedRun
from jobs.producer import enqueue_prepared, forget_run
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import RunSpec
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.hub import require_model_here
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.scheduler_config import SchedulerConfig
from worker.cli.options import media_flags, scheduler_flags
from worker.embedded_redis import EmbeddedRedis
from worker.engine.process import require_mlx
from worker.rq.maintenance import take_back_all
from worker.status import RunStatus, run_status

POLL = 0.5  # seconds


class RunFailedError(MLXBatchError):
    """A worker ended, or a job failed for good, before the run was complete."""


def run(
    url: str | None,
    prepared: PreparedRun,
    *,
    model: str,
    adapter: Path | None,
    workers: int,
    config: SchedulerConfig,
    media: MediaPolicy,
    show: Callable[[RunStatus], None],
) -> Verification:
    """Enqueue, work, and verify.

    Args:
        prepared: the run; where nothing of it begins, nothing is left of it either.
        model, adapter: what the workers load.
        config: bounds of each worker's engine.
        media: what a worker may read besides the input's own folder.
        show: called with the state twice a second.

    Raises:
        MLXBatchError: MLX is not installed; nothing was started or written.
        ModelLoadError: neither this machine nor the hub has the model.
        FolderLockedError: another run is at work in the folder.
        RunFailedError: the run can't be completed; it can be resumed.
        RunHaltedError: it was halted.
    """
    require_mlx()
    require_model_here(model, sees=prepared.sees)
    out = prepared.folder
    # Our own server's data stays in the folder, so that a run that was killed can go on.
    own = out / "_job" / "redis"
    if prepared.overwrite:
        EmbeddedRedis.require_free(own)
        if url is None:
            tell_moved(out, prepared.make_room())
            prepared = replace(prepared, overwrite=False)
    with ExitStack() as stack:
        stack.enter_context(_nothing_left_of_a_failed_start(out))
        server_url = url or stack.enter_context(EmbeddedRedis(own)).url
        connection = connect(server_url)
        enqueued = enqueue_prepared(connection, prepared)
        tell_moved(out, enqueued.moved)
        spec = enqueued.spec
        if not Dataset(out).is_whole(spec.shards):
            if url is None:
                take_back_all(open_queue(connection, spec.queue))
            paths = [enqueued.folder, *(media.allowed_paths or ())]
            allowed = MediaPolicy.of(paths, media.allowed_domains or (), media.video_reader)
            flags = [*scheduler_flags(config), *media_flags(allowed)]
            if adapter is not None:
                flags.append(f"--adapter={adapter}")
            with (
                _forgotten_if_not_begun(connection, spec),
                _workers(server_url, model, out, workers, flags) as processes,
            ):
                _watch(connection, spec, processes, show)
    verification = verify(out)
    if not verification.complete:
        raise RunFailedError(f"{out}: " + "; ".join(verification.problems))
    if url is None:
        shutil.rmtree(own, ignore_errors=True)
    return verification


def _watch(
    connection: Redis,
    spec: RunSpec,
    processes: list[subprocess.Popen[bytes]],
    show: Callable[[RunStatus], None],
) -> None:
    while True:
        alive = any(process.poll() is None for process in processes)
        status = run_status(connection, spec.run_id)
        show(status)
        if status.is_finished:
            return
        if status.halt and status.is_at_rest:
            raise RunHaltedError(
                f"{spec.run_id}: {status.halt.message}; {status.rows_done} of {spec.rows} rows are "
                "done, and the same command with --resume goes on"
            )
        if status.errors:
            reasons = "\n".join(f"{job_id}: {why}" for job_id, why in status.errors.items())
            raise RunFailedError(f"{spec.run_id} can't be completed:\n{reasons}")
        if not alive:
            log = Path(spec.out) / "_job" / "worker-0.log"
            last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            if not Dataset(Path(spec.out)).is_claimed:
                raise RunFailedError(
                    f"no worker is left that could begin; nothing was written:\n{last_lines}"
                )
            raise RunFailedError(
                f"no worker is left and {spec.run_id} is not complete; --resume goes on. "
                f"{log} ends:\n{last_lines}"
            )
        time.sleep(POLL)


@contextmanager
def _nothing_left_of_a_failed_start(out: Path) -> Iterator[None]:
    """Remove what was made in a new folder if an error comes before a worker has claimed it."""
    job = out / "_job"
    if job.exists():  # of a run that was begun
        yield
        return
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        yield
    except RunHaltedError:  # it can go on
        raise
    except Exception:
        if not Dataset(out).is_claimed:
            shutil.rmtree(job, ignore_errors=True)
            with contextlib.suppress(OSError):  # somebody has put something there
                for folder in made:
                    folder.rmdir()
        raise


@contextmanager
def _forgotten_if_not_begun(connection: Redis, spec: RunSpec) -> Iterator[None]:
    """Have the server forget the run if the workers fail before anybody has begun it."""
    try:
        yield
    except RunFailedError:
        status = run_status(connection, spec.run_id)
        begun = status.rows_done or status.shards["done"] or status.shards["started"]
        if not begun and not Dataset(Path(spec.out)).is_claimed:
            forget_run(connection, spec.run_id)
        raise


def tell_moved(out: Path, moved: Path | None) -> None:
    """Say where the folder that is overwritten is now."""
    if moved:
        click.echo(f"what {out} held is now in {moved}", err=True)


@contextmanager
def _workers(
    url: str, model: str, out: Path, count: int, flags: list[str]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run workers while the body does, each with a log of its own."""
    command = [sys.executable, "-m", "worker.cli", "worker", "--burst", "--model", model]
    command += ["--output-root", str(out), *flags]
    if url.startswith("unix:"):
        # Our own server: it ends with this process, and is not started again while workers run.
        command += ["--redis-timeout", "5"]
    # The URL may hold a password: not on a command line that others can list.
    environment = {**os.environ, "RQ_REDIS_URL": url}
    if count > 1:
        # Several BLAS threads on cores that others use are many times slower than one.
        environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    (out / "_job").mkdir(parents=True, exist_ok=True)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(count):
            with (out / "_job" / f"worker-{number}.log").open("ab") as log:
                process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,  # Ctrl-C reaches us, and we stop the workers in order
                )
            processes.append(process)
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()

"""A whole run on this machine: server, producer, workers and verification."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from jobs.connection import connect
from jobs.dataset import Dataset, verify
from jobs.errors import RunHaltedError
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import RunSpec
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.hub import require_model_here
from worker.engine.process import require_mlx
from worker.local.early_end import stopped, sum_up
from worker.local.embedded_redis import EmbeddedRedis, own_server
from worker.local.failed_start import (
    RunFailedError,
    forgotten_if_not_begun,
    no_new_server_left,
    nothing_left_of_a_failed_start,
)
from worker.local.interrupts import RunInterruptedError
from worker.local.known_run import KnownRun
from worker.local.kv_cache_check import require_kv_cache
from worker.local.local_workers import LocalWorkers, report_media_flags
from worker.local.new_run import NewRun
from worker.local.run_result import RunResult
from worker.local.run_watch import GRACE, POLL, RunWatch, Show
from worker.local.worker_settings import WorkerSettings
from worker.report_process import is_report_wanted
from worker.rq.maintenance import take_back_all
from worker.status.phase import Phase
from worker.status.progress import RunProgress
from worker.timer import Timer

Run = NewRun | KnownRun
Prepare = Callable[[Callable[[int], None]], Run]
"""It looks at the run, and says how many rows are read; nothing of it is begun."""


def run_locally(
    url: str | None, prepare: Prepare, settings: WorkerSettings, show: Show
) -> RunResult:
    """Enqueue, work, and verify.

    Args:
        prepare: where nothing of its run begins, nothing is left of it either.
        settings: the workers'; of media they may read those in the input's folder, too.
        show: called twice a second with where the run stands.

    Raises:
        MLXBatchError: MLX is not installed; nothing was started or written.
        ModelLoadError: neither this machine nor the hub has the model.
        KVCacheBudgetError: no row of it fits into `kv_cache_bytes`.
        FolderLockedError: another run is at work in the folder.
        RunFailedError: the run can't be completed; it can be resumed.
        RunHaltedError: it was halted.
        RunInterruptedError: Ctrl-C; the workers have ended, and it can be resumed.
    """
    began = time.monotonic()
    show(RunProgress(phase=Phase.READING))
    require_mlx()
    run = _read(prepare, began, show)
    require_model_here(settings.model, sees=run.sees)
    require_kv_cache(settings.model, settings.scheduler.kv_cache_bytes)
    run.make_room()
    out = run.folder
    # Our own server's data stays in the folder, so that a run that was killed can go on.
    own = own_server(out)
    with ExitStack() as stack:
        keep_folder = stack.enter_context(nothing_left_of_a_failed_start(out))
        keep_server = stack.enter_context(no_new_server_left(own))
        server_url = url or stack.enter_context(EmbeddedRedis(own)).url
        connection = stack.enter_context(connect(server_url))
        enqueued = run.enqueue(connection)
        spec, settings = enqueued.spec, settings.may_read(enqueued.folder)
        if url is None:
            settings.keep(out)
            take_back_all(open_queue(connection, spec.queue))
        else:
            WorkerSettings.forget(out)
        keep_server()
        progress = RunProgress(phase=Phase.READING, moved=enqueued.moved)
        if not Dataset(out).is_whole(spec.shards):
            stack.enter_context(forgotten_if_not_begun(connection, spec))
            Dataset(out).forget_unfinished()
            workers = LocalWorkers(server_url, settings, out, GRACE)
            is_wanted = is_report_wanted(settings.report)
            pages = report_media_flags(settings.media) if is_wanted else None

            def show_moved(now: RunProgress) -> None:
                show(replace(now, moved=enqueued.moved))

            watch = RunWatch(
                connection, spec, run.source, workers, show_moved, is_wanted, url is not None
            )
            keep_folder()
            with _summed_up(watch, connection, out, pages, show_moved):
                progress = replace(watch.until_the_end(began), moved=enqueued.moved)
    result = _finish(spec, progress, began, show)
    if url is None:
        shutil.rmtree(own, ignore_errors=True)
    return result


def _read(prepare: Prepare, began: float, show: Show) -> Run:
    """Look at the run, and show how many rows are read."""
    due = Timer(POLL)

    def show_read(rows: int) -> None:
        elapsed = time.monotonic() - began
        show(RunProgress(phase=Phase.READING, rows_read=rows, elapsed_seconds=elapsed))
        due.restart()

    run = prepare(lambda rows: show_read(rows) if due.is_due else None)
    if run.rows_read:
        show_read(run.rows_read)
    return run


@contextmanager
def _summed_up(
    watch: RunWatch, connection: Redis, out: Path, pages: Sequence[str] | None, show: Show
) -> Iterator[None]:
    """Give an error that ends a run early what there is of the run.

    Args:
        pages: see `sum_up`'s `report_media`.
    """
    try:
        yield
    except (RunHaltedError, RunFailedError, RunInterruptedError) as error:
        with suppress(RedisError, MLXBatchError):  # how it ended is what matters more
            progress = stopped(watch.so_far())
            show(progress)
            if progress.rows_done or not isinstance(error, RunFailedError):
                error.result = sum_up(
                    connection, out, progress, report_media=pages, patience=watch.patience
                )
        raise


def _finish(spec: RunSpec, progress: RunProgress, began: float, show: Show) -> RunResult:
    """Prove the dataset whole, and show that the run is finished.

    Raises:
        RunFailedError: it is not whole.
    """
    dataset = Dataset(Path(spec.out))
    verification = verify(Path(spec.out))
    if not verification.complete:
        raise RunFailedError(f"{spec.out}: " + "; ".join(verification.problems))
    ended = replace(
        progress,
        phase=Phase.FINISHED,
        run_id=spec.run_id,
        rows=spec.rows,
        rows_done=verification.rows_in,
        fraction=1.0,
        elapsed_seconds=time.monotonic() - began,
        remaining_seconds=0.0,
    )
    show(ended)
    page = dataset.layout.report
    return RunResult.of(Path(spec.out), ended, report=page if page.exists() else None)

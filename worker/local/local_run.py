"""A whole run on this machine: server, producer, workers and verification."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace

from redis.exceptions import RedisError

from jobs.connection import connect
from jobs.dataset import Dataset, verify
from jobs.errors import RunHaltedError
from jobs.preparation import PreparedRun
from jobs.producer import enqueue_prepared
from jobs.queue.run_jobs import open_queue
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
from worker.local.known_run import KnownRun, leave_own_server
from worker.local.kv_cache_check import require_kv_cache
from worker.local.local_workers import LocalWorkers, report_media_flags
from worker.local.run_result import RunResult
from worker.local.run_watch import GRACE, POLL, RunWatch, Show
from worker.local.worker_settings import WorkerSettings
from worker.report_process import is_report_wanted
from worker.rq.maintenance import take_back_all
from worker.status.phase import Phase
from worker.status.progress import RunProgress
from worker.timer import Timer


def run_locally(
    url: str | None,
    prepare: Callable[[Callable[[int], None]], PreparedRun | KnownRun],
    settings: WorkerSettings,
    show: Show,
) -> RunResult:
    """Enqueue, work, and verify.

    Args:
        prepare: looks at the run, and says how many rows are read; where nothing of it begins,
            nothing is left of it either.
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
    progress = RunProgress(phase=Phase.READING)
    show(progress)
    require_mlx()
    has_report = is_report_wanted(settings.report)
    due = Timer(POLL)

    def show_read(rows: int) -> None:
        elapsed = time.monotonic() - began
        show(replace(progress, rows_read=rows, elapsed_seconds=elapsed))
        due.restart()

    prepared = prepare(lambda rows: show_read(rows) if due.is_due else None)
    if isinstance(prepared, PreparedRun):
        show_read(prepared.spec.input_rows)
    require_model_here(settings.model, sees=prepared.sees)
    require_kv_cache(settings.model, settings.scheduler.kv_cache_bytes)
    out = prepared.folder
    # Our own server's data stays in the folder, so that a run that was killed can go on.
    own = own_server(out)
    moved = None
    if isinstance(prepared, PreparedRun) and prepared.overwrite:
        EmbeddedRedis.require_free(own)
        if url is None:
            moved = prepared.make_room()
            prepared = replace(prepared, overwrite=False)
    with ExitStack() as stack:
        stack.enter_context(nothing_left_of_a_failed_start(out))
        keep_server = stack.enter_context(no_new_server_left(own))
        server_url = url or stack.enter_context(EmbeddedRedis(own)).url
        connection = stack.enter_context(connect(server_url))
        if url is not None and isinstance(prepared, PreparedRun) and prepared.resume:
            leave_own_server(out, connection)
        if isinstance(prepared, PreparedRun):
            enqueued = enqueue_prepared(connection, prepared)
        else:
            enqueued = prepared.enqueue(connection, settings)
        spec, moved = enqueued.spec, enqueued.moved or moved
        settings = settings.may_read(enqueued.folder)
        if url is None:
            settings.keep(out)
        else:
            WorkerSettings.forget(out)
        keep_server()
        if not Dataset(out).is_whole(spec.shards):
            if url is None:
                take_back_all(open_queue(connection, spec.queue))
            stack.enter_context(forgotten_if_not_begun(connection, spec))
            Dataset(out).forget_unfinished()
            processes = LocalWorkers(server_url, settings, out, GRACE)
            watch = RunWatch(
                connection,
                spec,
                prepared.source,
                processes,
                lambda now: show(replace(now, moved=moved)),
                has_report,
            )
            try:
                progress = watch.until_the_end(began)
            except (RunHaltedError, RunFailedError, RunInterruptedError) as error:
                with suppress(RedisError, MLXBatchError):  # how it ended is what matters more
                    progress = stopped(replace(watch.so_far(), moved=moved))
                    show(progress)
                    if progress.rows_done or not isinstance(error, RunFailedError):
                        pages = report_media_flags(settings.media) if has_report else None
                        error.result = sum_up(
                            connection, out, progress, report_media=pages, patience=watch.patience
                        )
                raise
    verification = verify(out)
    if not verification.complete:
        raise RunFailedError(f"{out}: " + "; ".join(verification.problems))
    if url is None:
        shutil.rmtree(own, ignore_errors=True)
    ended = replace(
        progress,
        phase=Phase.FINISHED,
        run_id=spec.run_id,
        rows=spec.rows,
        rows_done=verification.rows_in,
        fraction=1.0,
        elapsed_seconds=time.monotonic() - began,
        remaining_seconds=0.0,
        moved=moved,
    )
    show(ended)
    page = Dataset(out).layout.report
    return RunResult.of(out, ended, report=page if page.exists() else None)

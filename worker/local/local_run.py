"""A whole run on this machine: server, producer, workers and verification."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from redis import Redis

from jobs.connection import connect
from jobs.dataset import Dataset, verify
from jobs.errors import RunHaltedError
from jobs.ledger import Halt, HaltReason
from jobs.preparation import PreparedRun
from jobs.producer import enqueue_prepared
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import RunSpec
from jobs.sources import Input
from vllm_mlx.hub import require_model_here
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.scheduler_config import SchedulerConfig
from worker.engine.process import require_mlx
from worker.local.embedded_redis import EmbeddedRedis, own_server
from worker.local.failed_start import (
    RunFailedError,
    forgotten_if_not_begun,
    nothing_left_of_a_failed_start,
)
from worker.local.interrupts import Interrupts
from worker.local.local_workers import LocalWorkers, media_flags, scheduler_flags
from worker.local.preview import RunPreviewedError, preview_rows
from worker.local.run_result import RunResult
from worker.rq.maintenance import take_back_all
from worker.status.live import Live
from worker.status.phase import Phase
from worker.status.progress import RunProgress
from worker.status.progress_meter import ProgressMeter, RecordedRows
from worker.status.status import RunStatus, run_status
from worker.timer import Timer

POLL = 0.5  # seconds
TICK = 0.1  # seconds in which Ctrl-C is answered
GRACE = 10.0  # seconds that rows may go on after it
END = 1.0  # seconds that workers have then to give back what they hold

Show = Callable[[RunProgress], None]


def run_locally(
    url: str | None,
    prepare: Callable[[Callable[[int], None]], PreparedRun],
    *,
    model: str,
    adapter: Path | None,
    workers: int,
    config: SchedulerConfig,
    media: MediaPolicy,
    report: bool | None,
    show: Show,
) -> RunResult:
    """Enqueue, work, and verify.

    Args:
        prepare: looks at the run, and says how many rows are read; where nothing of it begins,
            nothing is left of it either.
        model, adapter: what the workers load.
        config: bounds of each worker's engine.
        media: what a worker may read besides the input's own folder.
        report: whether a worker writes the report at the end; None is the worker's own default.
        show: called twice a second with where the run stands.

    Raises:
        MLXBatchError: MLX is not installed; nothing was started or written.
        ModelLoadError: neither this machine nor the hub has the model.
        FolderLockedError: another run is at work in the folder.
        RunFailedError: the run can't be completed; it can be resumed.
        RunHaltedError: it was halted.
        KeyboardInterrupt: Ctrl-C; the workers have ended in order, and it can be resumed.
    """
    began = time.monotonic()
    progress = RunProgress(phase=Phase.READING)
    show(progress)
    require_mlx()
    due = Timer(POLL)

    def show_read(rows: int) -> None:
        elapsed = time.monotonic() - began
        show(replace(progress, rows_read=rows, elapsed_seconds=elapsed))
        due.restart()

    prepared = prepare(lambda rows: show_read(rows) if due.is_due else None)
    show_read(prepared.spec.input_rows)
    require_model_here(model, sees=prepared.sees)
    out = prepared.folder
    # Our own server's data stays in the folder, so that a run that was killed can go on.
    own = own_server(out)
    moved = None
    if prepared.overwrite:
        EmbeddedRedis.require_free(own)
        if url is None:
            moved = prepared.make_room()
            prepared = replace(prepared, overwrite=False)
    with ExitStack() as stack:
        stack.enter_context(nothing_left_of_a_failed_start(out))
        server_url = url or stack.enter_context(EmbeddedRedis(own)).url
        connection = stack.enter_context(connect(server_url))
        enqueued = enqueue_prepared(connection, prepared)
        spec, moved = enqueued.spec, enqueued.moved or moved
        if not Dataset(out).is_whole(spec.shards):
            if url is None:
                take_back_all(open_queue(connection, spec.queue))
            paths = [enqueued.folder, *(media.allowed_paths or ())]
            allowed = MediaPolicy.of(paths, media.allowed_domains or (), media.video_reader)
            flags = [*scheduler_flags(config), *media_flags(allowed), f"--grace={GRACE:g}"]
            if report is not None:
                flags.append("--report" if report else "--no-report")
            if adapter is not None:
                flags.append(f"--adapter={adapter}")
            stack.enter_context(forgotten_if_not_begun(connection, spec))
            processes = LocalWorkers(server_url, model, out, workers, flags)
            watch = _Watch(
                connection,
                spec,
                prepared.source,
                processes,
                lambda now: show(replace(now, moved=moved)),
            )
            progress = watch.until_the_end(began)
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
    return RunResult.of(out, verification, ended)


class _Watch:
    """Shows a run while workers are at it."""

    def __init__(
        self,
        connection: Redis,
        spec: RunSpec,
        source: Input,
        workers: LocalWorkers,
        show: Show,
    ) -> None:
        self._connection = connection
        self._source = source
        self._spec = spec
        self._workers = workers
        self._show = show
        self._interrupts = Interrupts()
        self._answered = 0  # interrupts
        self._stops_at = float("inf")
        self._meter: ProgressMeter
        self._progress: RunProgress

    def until_the_end(self, began: float) -> RunProgress:
        """Return where the run stood last, once it is finished.

        Raises:
            RunFailedError: it can't be completed.
            KeyboardInterrupt: it was interrupted, and its workers have ended.
        """
        self._meter = ProgressMeter(self._spec, self._workers.names, began)
        rows = RecordedRows(self._connection, self._spec.run_id)
        with closing(rows), self._workers, self._interrupts:
            while not self._look(rows).is_finished:
                self._wait()
        # They have ended, and their last words are the whole of their work.
        status = run_status(self._connection, self._spec.run_id)
        self._meter.listen(Live.of(self._connection, self._workers.names))
        return self._meter.read(status, sample=self._progress.sample)

    def _look(self, rows: RecordedRows) -> RunStatus:
        is_any_alive = self._workers.is_any_alive
        status = run_status(self._connection, self._spec.run_id)
        self._progress = self._meter.read(status, sample=rows.last(), grace=self._grace)
        if status.is_finished:  # but for its workers, which end, and another look at the dataset
            self._progress = replace(self._progress, phase=Phase.VERIFYING)
        self._show(self._progress)
        if status.is_finished:
            return status
        if status.halt and status.is_at_rest:
            raise self._halted(status, status.halt)
        if status.errors:
            reasons = "\n".join(f"{job_id}: {why}" for job_id, why in status.errors.items())
            raise RunFailedError(f"{self._spec.run_id} can't be completed:\n{reasons}")
        if not is_any_alive:
            if self._answered:
                raise KeyboardInterrupt
            if not Dataset(Path(self._spec.out)).is_claimed:
                raise RunFailedError(
                    "no worker is left that could begin; nothing was written. "
                    + self._workers.last_words
                )
            raise RunFailedError(
                f"no worker is left and {self._spec.run_id} is not complete; --resume goes on. "
                + self._workers.last_words
            )
        return status

    def _halted(self, status: RunStatus, halt: Halt) -> RunHaltedError:
        is_preview = halt.reason is HaltReason.PREVIEW
        changes = "with --resume in place of --preview" if is_preview else "with --resume"
        message = (
            f"{self._spec.run_id}: {halt}; {status.rows_done} of {self._spec.rows} rows "
            f"are done, and the same command {changes} goes on"
        )
        if not is_preview:
            return RunHaltedError(message)
        rows = preview_rows(self._connection, self._spec, self._source)
        return RunPreviewedError(message, rows)

    @property
    def _grace(self) -> float | None:
        return max(0.0, self._stops_at - time.monotonic()) if self._answered else None

    def _wait(self) -> None:
        """Wait until it is time to look again, or Ctrl-C is pressed."""
        until = time.monotonic() + POLL
        while time.monotonic() < until:
            if self._interrupts.count > self._answered:
                self._answered += 1
                self._end()
                return
            if self._answered and not self._workers.is_any_alive:
                return
            if time.monotonic() > self._stops_at + END:
                self._workers.kill()
            time.sleep(TICK)

    def _end(self) -> None:
        """Answer Ctrl-C: the first ends the run in order, the second now, a third kills."""
        now = time.monotonic()
        self._stops_at = now + GRACE if self._answered == 1 else now
        if self._answered <= 2:
            self._workers.stop()
        else:
            self._workers.kill()

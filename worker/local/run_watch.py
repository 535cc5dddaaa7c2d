"""`RunWatch`: looks at a run while workers are at it, and answers Ctrl-C."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread

from redis import Redis

from jobs.dataset import Dataset
from jobs.errors import RunHaltedError
from jobs.ledger import Halt, HaltReason
from jobs.producer import input_again
from jobs.run_spec import RunSpec
from jobs.sources import Input
from worker.local.failed_start import RunFailedError
from worker.local.interrupts import Interrupts, RunInterruptedError
from worker.local.local_workers import LocalWorkers
from worker.local.preview import RunPreviewedError, preview_rows
from worker.status.live import Live
from worker.status.phase import Phase
from worker.status.progress import RunProgress
from worker.status.progress_meter import ProgressMeter, RecordedRows
from worker.status.status import RunStatus, run_status

POLL = 0.5  # seconds
TICK = 0.1  # seconds in which Ctrl-C is answered
GRACE = 10.0  # seconds that rows may go on after it
END = 0.6  # seconds that workers have then to give back what they hold

Show = Callable[[RunProgress], None]


class RunWatch:
    """Shows a run while workers are at it.

    Args:
        source: None of a run that was begun, and goes on in its folder.
        has_report: a worker writes one at the end.
        has_server: it was given one, so that its folder alone is not enough to go on.
    """

    def __init__(
        self,
        connection: Redis,
        spec: RunSpec,
        source: Input | None,
        workers: LocalWorkers,
        show: Show,
        has_report: bool,
        has_server: bool,
    ) -> None:
        self._connection = connection
        self._source = source
        self._spec = spec
        self._workers = workers
        self._show = show
        self._last_phase = Phase.REPORTING if has_report else Phase.VERIFYING
        self._has_server = has_server
        self._interrupts = Interrupts()
        self._answered = 0  # interrupts
        self._stops_at = float("inf")
        self._meter: ProgressMeter
        self._progress: RunProgress

    def until_the_end(self, began: float) -> RunProgress:
        """Return where the run stood last, once it is finished.

        Raises:
            RunFailedError: it can't be completed.
            RunHaltedError: it was halted.
            RunInterruptedError: it was interrupted, and its workers have ended.
        """
        self._meter = ProgressMeter(self._spec, self._workers.names, began)
        rows = RecordedRows(self._connection, self._spec.run_id)
        with closing(rows), self._workers, self._interrupts:
            while not self._look(rows).is_finished:
                self._wait()
        return self.so_far()

    def so_far(self) -> RunProgress:
        """Return where the run stands once its workers have ended.

        Their last words are the whole of their work.
        """
        status = run_status(self._connection, self._spec.run_id)
        self._meter.listen(Live.of(self._connection, self._workers.names))
        return self._meter.read(status, sample=self._progress.sample)

    @property
    def patience(self) -> float | None:
        """How many seconds may pass until the end after Ctrl-C; None if it was not pressed."""
        return max(0.0, self._stops_at + END - time.monotonic()) if self._answered else None

    def _look(self, rows: RecordedRows) -> RunStatus:
        is_any_alive = self._workers.is_any_alive
        status = run_status(self._connection, self._spec.run_id)
        self._progress = self._meter.read(status, sample=rows.last(), grace=self._grace)
        if status.is_finished:  # but for its workers, which end, and another look at the dataset
            self._progress = replace(self._progress, phase=self._last_phase)
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
                raise RunInterruptedError
            if not Dataset(Path(self._spec.out)).is_claimed:
                raise RunFailedError(
                    "no worker is left that could begin; nothing was written. The log of one ends:"
                    f"\n{self._workers.last_words}"
                )
            raise RunFailedError(
                f"no worker is left and {self._spec.run_id} is not complete; "
                f"{self._again or '--resume'} goes on. "
                f"{self._workers.log} ends:\n{self._workers.last_words}"
            )
        return status

    def _halted(self, status: RunStatus, halt: Halt) -> RunHaltedError:
        is_preview = halt.reason is HaltReason.PREVIEW
        changes = "with --resume in place of --preview" if is_preview else "with --resume"
        message = (
            f"{self._spec.run_id}: {halt}; {status.rows_done} of {self._spec.rows} rows "
            f"are done, and {self._again or f'the same command {changes}'} goes on"
        )
        if not is_preview:
            return RunHaltedError(message)
        source = self._source or input_again(self._spec)  # a folder that goes on names it
        rows = preview_rows(self._connection, self._spec, source)
        return RunPreviewedError(message, rows)

    @property
    def _again(self) -> str:
        if self._has_server:
            return ""
        return f"`mlx-batch resume {shlex.quote(self._spec.out)}`"

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
        if self._answered == 1:  # the summary needs it: 0.3 s that nobody has to wait for
            Thread(target=import_module, args=["pyarrow.dataset"], daemon=True).start()
        if self._answered <= 2:
            self._workers.stop()
        else:
            self._workers.kill()

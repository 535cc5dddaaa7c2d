"""`sum_up`: what there is of a run that ends before it is finished: rows, a page, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from redis import Redis

from jobs.dataset import Dataset
from jobs.ledger import Ledger
from worker.flights.unfinished import write_unfinished
from worker.local.run_result import RunResult
from worker.report_process import ReportProcess
from worker.status.phase import Phase
from worker.status.progress import RunProgress


def stopped(progress: RunProgress) -> RunProgress:
    """Return where a run stands whose workers have ended."""
    return replace(
        progress,
        phase=Phase.STOPPED,
        remaining_seconds=None,
        grace_seconds=None,
        halt=None,
        running=0,
        waiting=0,
    )


def sum_up(
    connection: Redis,
    out: Path,
    progress: RunProgress,
    *,
    report_media: Sequence[str] | None,
    patience: float | None,
) -> RunResult:
    """Bring all rows to the run's folder, write its page, and return what there is.

    Args:
        report_media: see `ReportProcess`; None writes no page.
        patience: seconds to wait for the page, which comes later if it takes longer.

    Raises:
        DatasetError: the folder can't be written.
    """
    assert progress.run_id is not None
    write_unfinished(connection, Ledger(connection).spec(progress.run_id))
    dataset, report = Dataset(out), None
    if report_media is not None and dataset.rows_files:
        is_there = ReportProcess(report_media).write(out, patience=patience)
        report = dataset.layout.report if is_there else None
    return RunResult.of(out, progress, report=report)

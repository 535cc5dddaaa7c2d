"""What `status` prints: one run in full, or all runs, a line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.wording import clock, counted, incomplete, plain, rows_in_error
from worker.status.status import RunStatus


def print_status(console: Console, status: RunStatus) -> None:
    """Print a run as a table of facts."""
    table = Table(show_header=False)
    for name, value in _facts(status):
        table.add_row(Text(plain(name)), Text(plain(value)))
    console.print(table)


def print_runs(console: Console, statuses: Iterable[RunStatus]) -> None:
    """Print a line for each run; how the ones that are not over will go on, below."""
    table = Table(box=None, pad_edge=False)
    for column in ("run", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("in error", justify="right", no_wrap=True)
    table.add_column("dataset", overflow="fold")
    for status in statuses:
        state = f"{status.standing.value} {status.percent}"
        rows = f"{status.rows_done:,}/{status.spec.rows:,}"
        cells = (status.spec.run_id, state, rows, f"{status.rows_error:,}", status.spec.out)
        table.add_row(*(Text(plain(cell)) for cell in cells))
    console.print(table)


def _facts(status: RunStatus) -> Iterator[tuple[str, str]]:
    spec, stretch = status.spec, status.stretch
    yield "run", spec.run_id
    remark = f": {status.remark}" if status.remark else ""
    yield "state", status.standing.value + remark
    yield "model", spec.model
    yield "dataset", spec.out
    errors = rows_in_error(status.rows_error, status.error_types)
    rows = f"{status.rows_done} of {spec.rows} ({status.percent})"
    yield "rows", f"{rows}{incomplete(status.rows_incomplete)}, {errors}"
    where = ", ".join(f"{count} {name}" for name, count in status.shards.items() if count)
    yield "shards", f"{where} of {spec.shards}"
    if stretch.seconds:
        mean = f"{stretch.tokens_per_second:.1f} tokens/s"
        yield "on average", f"{mean} in {clock(stretch.seconds)} at work"
    if (left := status.seconds_left) is not None:
        yield "left", f"about {clock(left)}"
    if not status.is_over:
        workers = counted(len(status.workers), "worker")
        yield "speed", f"{status.tokens_per_second:.1f} tokens/s on {workers}"
    for name, said in status.workers.items():
        yield f"worker {name}", str(said)
        if said.way:
            yield "", f"runs {said.way}"
    if failed := max(status.shards["failed"], len(status.errors)):
        yield "failed", f"{counted(failed, 'job')}; each reason with a job that tells it:"
    for reason, job_id in status.reasons.items():
        yield job_id, reason

"""`status`: where one run stands, or all of them, once or until nothing can happen any more."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial

import click
from redis import Redis
from rich.console import Console

from jobs.connection import connect
from jobs.errors import LedgerError
from jobs.ledger import Ledger
from jobs.wording import plain
from worker.cli.exit_codes import ExitCode
from worker.cli.run_argument import find_run, run_argument, run_option
from worker.cli.status_view import print_runs, print_status
from worker.status.standing import Standing
from worker.status.status import RunStatus, run_status

LOOK = 2.0  # seconds between two looks
LOOKS = 3  # in a row at a run of which nothing is queued: its producer may be at work


@click.command(short_help="Show where RUN stands, or every run.")
@run_argument(required=False)
@run_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a run.")
@click.option(
    "--watch",
    is_flag=True,
    help="Again every two seconds, until nothing can happen any more; the exit code then says how "
    "it ended.",
)
def status(url: str | None, run: str | None, as_json: bool, watch: bool) -> None:
    """Show where RUN stands, a run or its dataset's folder; without it, every run of the server."""
    console = Console()
    with ExitStack() as stack:
        look = _look(url, run, stack)
        waits = Watch()
        while True:
            statuses = look()
            if watch and console.is_terminal:
                console.clear()
            _show(console, statuses, as_json=as_json, in_full=run is not None)
            if not watch:
                return
            if waits.is_over(statuses):
                sys.exit(max(map(_exit_code, statuses), default=ExitCode.OK))
            time.sleep(LOOK)


class Watch:
    """Decides when nothing can happen any more, from one look to the next."""

    def __init__(self) -> None:
        self._looks = 0

    def is_over(self, statuses: Iterable[RunStatus]) -> bool:
        """Whether all runs are over; one of which nothing is queued, only after some looks."""
        statuses = list(statuses)
        if not all(each.is_over for each in statuses):
            self._looks = 0
            return False
        self._looks += 1
        doubtful = any(
            each.standing is Standing.INTERRUPTED and not each.is_asleep for each in statuses
        )
        return not doubtful or self._looks >= LOOKS


def _look(url: str | None, run: str | None, stack: ExitStack) -> Callable[[], list[RunStatus]]:
    if run is not None:
        place = stack.enter_context(find_run(url, run))
        return lambda: [place.status()]
    if url is None:
        raise click.UsageError("give the URL of a Redis with -u, or RQ_REDIS_URL; or RUN's folder")
    return partial(_all_runs, stack.enter_context(connect(url)))


def _show(console: Console, statuses: Sequence[RunStatus], *, as_json: bool, in_full: bool) -> None:
    if not statuses:
        click.echo("no runs on this server", err=True)
    elif as_json:
        for each in statuses:
            click.echo(json.dumps(each.as_dict()))
    elif in_full:
        for each in statuses:
            print_status(console, each)
    else:
        print_runs(console, statuses)


def _exit_code(status: RunStatus) -> ExitCode:
    match status.standing:
        case Standing.FINISHED:
            ok = status.rows_done - status.rows_error
            return ExitCode.of_rows(ok, status.rows_error, strict=False)
        case Standing.PAUSED | Standing.HALTED:
            return ExitCode.HALTED
        case Standing.UNKNOWN:
            return ExitCode.NOT_WHOLE
        case _:
            return ExitCode.FAILED


def _all_runs(connection: Redis) -> list[RunStatus]:
    """Return where each run stands; one whose record is broken hides no other."""
    statuses = []
    for name in Ledger(connection).runs():
        try:
            statuses.append(run_status(connection, name))
        except LedgerError as error:
            click.echo(f"mlx-batch: {plain(str(error))}", err=True)
    return statuses

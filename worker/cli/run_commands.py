"""Commands about runs that a server knows: `status`, `tail`, `resume`, `retry`, `forget`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import click
from redis import Redis
from rich.console import Console

from jobs.errors import LedgerError
from jobs.ledger import Ledger, RunState, read_row
from jobs.ledger.keys import rows_channel
from jobs.pause import continue_run, pause_run
from jobs.producer import Enqueued, forget_run, resume_run
from jobs.result_row import ResultRow
from jobs.retry import retry_errors
from worker.cli.options import with_redis
from worker.cli.status_view import print_runs, print_status
from worker.plain_text import plain, row_as_line
from worker.serving import obstacles
from worker.status import RunStatus, run_status


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@with_redis
@click.option("--json", "as_json", is_flag=True, help="One JSON object a run.")
@click.option(
    "--watch", is_flag=True, help="Again every two seconds, until it is finished or has failed."
)
def status(connection: Redis, run_id: str | None, as_json: bool, watch: bool) -> None:
    """Show where RUN stands, or every run."""
    console = Console()
    while True:
        statuses = [run_status(connection, run_id)] if run_id else _all_runs(connection)
        if watch and console.is_terminal:
            console.clear()
        for each in statuses:
            if as_json:
                click.echo(json.dumps(each.as_dict()))
            elif run_id:
                print_status(console, each)
        if not statuses:
            click.echo("no runs on this server", err=True)
        elif not as_json and not run_id:
            print_runs(console, statuses)
        if not watch or all(each.is_over for each in statuses):
            return
        time.sleep(2)


@click.command()
@click.argument("run_id", metavar="RUN")
@with_redis
@click.option("--json", "as_json", is_flag=True, help="One JSON object a row.")
def tail(connection: Redis, run_id: str, as_json: bool) -> None:
    """Show RUN's rows as they come, until it is finished."""
    Ledger(connection).spec(run_id)
    for row in _rows_as_they_come(connection, run_id):
        click.echo(json.dumps(row.cells()) if as_json else row_as_line(row))


@click.command(short_help="Let workers begin no more rows of RUN.")
@click.argument("run_id", metavar="RUN")
@with_redis
def pause(connection: Redis, run_id: str) -> None:
    """Let workers begin no more rows of RUN; those under way end, and are recorded."""
    pause_run(connection, run_id)
    click.echo(f"{run_id} is paused; `mlx-batch continue {run_id}` goes on", err=True)


@click.command("continue", short_help="Let a paused or halted RUN go on.")
@click.argument("run_id", metavar="RUN")
@with_redis
def continue_(connection: Redis, run_id: str) -> None:
    """Let a paused or halted RUN go on; unlike `resume`, without reading its input again."""
    shards = continue_run(connection, run_id)
    click.echo(f"{run_id} goes on; {shards} shards are enqueued again", err=True)


@click.command(short_help="Enqueue again what is missing of RUN.")
@click.argument("run_id", metavar="RUN")
@with_redis
def resume(connection: Redis, run_id: str) -> None:
    """Enqueue again what of RUN is neither done nor queued nor in a worker."""
    tell_enqueued(connection, resume_run(connection, run_id))
    click.echo(run_id)


@click.command(short_help="Run the error rows of RUN again.")
@click.argument("run_id", metavar="RUN")
@with_redis
@click.option("--errors", is_flag=True, required=True, help="Those that ended in an error.")
@click.option("--type", "error_type", metavar="T", help="Only those with this error_type.")
def retry(connection: Redis, run_id: str, error_type: str | None, **_: bool) -> None:
    """Run rows of a finished RUN again, and replace them in its dataset."""
    rows, enqueued = retry_errors(connection, run_id, error_type=error_type)
    click.echo(f"{rows} rows are tried again", err=True)
    if enqueued is not None:
        tell_enqueued(connection, enqueued)
    click.echo(run_id)


@click.command()
@click.argument("run_id", metavar="RUN")
@with_redis
def forget(connection: Redis, run_id: str) -> None:
    """Remove RUN's jobs and record from the server; its dataset stays."""
    jobs = forget_run(connection, run_id)
    click.echo(f"{run_id} and {jobs} jobs are forgotten")


def _rows_as_they_come(connection: Redis, run_id: str) -> Iterator[ResultRow]:
    """Yield every row that is recorded from now on, until the run is finished."""
    ledger = Ledger(connection)
    with connection.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(rows_channel(run_id))
        while True:
            message = channel.get_message(timeout=1.0)
            if message is not None:
                yield read_row(message["data"])
            elif ledger.progress(run_id).state is RunState.FINISHED:
                return


def _all_runs(connection: Redis) -> list[RunStatus]:
    """Return where each run stands; one whose record is broken hides no other."""
    statuses = []
    for name in Ledger(connection).runs():
        try:
            statuses.append(run_status(connection, name))
        except LedgerError as error:
            click.echo(f"mlx-batch: {plain(str(error))}", err=True)
    return statuses


def tell_enqueued(connection: Redis, enqueued: Enqueued) -> None:
    """Say what was enqueued, and what keeps it from being worked on."""
    spec = enqueued.spec
    if spec.bad_rows:
        click.echo(f"{spec.bad_rows} bad rows will be error rows of the dataset:", err=True)
        for each in enqueued.bad_rows.described():
            click.echo(f"  {each}", err=True)
    rows = f"{spec.input_rows} rows"
    if spec.rows != spec.input_rows:
        rows += f" with {spec.rows} samples"
    click.echo(f"{rows}; {enqueued.shards} of {spec.shards} shards enqueued", err=True)
    for obstacle in obstacles(connection, spec) if enqueued.shards else ():
        click.echo(f"warning: {plain(obstacle)}", err=True)


COMMANDS = (status, tail, pause, continue_, resume, retry, forget)

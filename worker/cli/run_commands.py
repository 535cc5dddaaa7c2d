"""Commands that change a run: `pause`, `continue`, `resume`, `retry`, `forget`."""

from __future__ import annotations

import click
from redis import Redis

from jobs.counted import counted
from jobs.pause import continue_run, pause_run
from jobs.producer import Enqueued, forget_run, resume_run
from jobs.retry import retry_errors
from worker.cli.run_argument import with_adopted_run, with_run
from worker.cli.status import status
from worker.cli.tail import tail
from worker.plain_text import plain
from worker.status.serving import obstacles


@click.command(short_help="Let workers begin no more rows of RUN.")
@with_run
def pause(connection: Redis, run_id: str) -> None:
    """Let workers begin no more rows of RUN; those under way end, and are recorded."""
    pause_run(connection, run_id)
    click.echo(f"{run_id} is paused; `mlx-batch continue {run_id}` goes on", err=True)


@click.command("continue", short_help="Let a paused or halted RUN go on.")
@with_run
def continue_(connection: Redis, run_id: str) -> None:
    """Let a paused or halted RUN go on; unlike `resume`, without reading its input again."""
    shards = continue_run(connection, run_id)
    click.echo(f"{run_id} goes on; {counted(shards, 'shard')} enqueued again", err=True)


@click.command(short_help="Enqueue again what is missing of RUN.")
@with_adopted_run
def resume(connection: Redis, run_id: str) -> None:
    """Enqueue again what of RUN is neither done nor queued nor in a worker."""
    tell_enqueued(connection, resume_run(connection, run_id))
    click.echo(run_id)


@click.command(short_help="Run the error rows of RUN again.")
@with_adopted_run
@click.option("--errors", is_flag=True, required=True, help="Those that ended in an error.")
@click.option("--type", "error_type", metavar="T", help="Only those with this error_type.")
def retry(connection: Redis, run_id: str, error_type: str | None, **_: bool) -> None:
    """Run rows of a finished RUN again, and replace them in its dataset."""
    rows, enqueued = retry_errors(connection, run_id, error_type=error_type)
    click.echo(f"{counted(rows, 'row')} {'is' if rows == 1 else 'are'} tried again", err=True)
    if enqueued is not None:
        tell_enqueued(connection, enqueued)
    click.echo(run_id)


@click.command()
@with_run
def forget(connection: Redis, run_id: str) -> None:
    """Remove RUN's jobs and record from the server; its dataset stays."""
    jobs = forget_run(connection, run_id)
    click.echo(f"{run_id} and {counted(jobs, 'job')} are forgotten")


def tell_enqueued(connection: Redis, enqueued: Enqueued) -> None:
    """Say what was enqueued, and what keeps it from being worked on."""
    spec = enqueued.spec
    if spec.bad_rows:
        rows = counted(spec.bad_rows, "bad row")
        click.echo(f"{rows} will be in error in the dataset:", err=True)
        for each in enqueued.bad_rows.described():
            click.echo(f"  {each}", err=True)
    rows = counted(spec.input_rows, "row")
    if spec.rows != spec.input_rows:
        rows += f" with {counted(spec.rows, 'sample')}"
    shards = f"{enqueued.shards:,} of {counted(spec.shards, 'shard')}"
    click.echo(f"{rows}; {shards} enqueued", err=True)
    for obstacle in obstacles(connection, spec) if enqueued.shards else ():
        click.echo(f"warning: {plain(obstacle)}", err=True)


COMMANDS = (status, tail, pause, continue_, resume, retry, forget)

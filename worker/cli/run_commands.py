"""Commands that change a run: `pause`, `continue`, `resume`, `retry`, `forget`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click
from redis import Redis

from jobs.pause import continue_run, pause_run
from jobs.producer import Enqueued, forget_run, resume_run
from jobs.retry import retry_errors
from jobs.wording import counted
from worker.cli.going_on import goes_on
from worker.cli.grouped_help import GroupedCommand
from worker.cli.run_argument import (
    RunPlace,
    find_run,
    run_argument,
    run_option,
    unknown,
    with_run,
)
from worker.cli.status import status
from worker.cli.tail import tail
from worker.local.embedded_redis import EmbeddedRedis, own_server
from worker.local.worker_settings import WorkerSettings

_WHERE = (
    "A run that `mlx-batch run` made with no Redis given goes on in its folder, with workers of "
    "its own, and shows what `run` shows; any other one waits for the workers of its server."
)


@click.command(short_help="Let workers begin no more rows of RUN.")
@with_run
def pause(place: RunPlace, connection: Redis) -> None:
    """Let workers begin no more rows of RUN; those under way end, and are recorded."""
    pause_run(connection, place.run_id)
    click.echo(f"{place.run_id} is paused; `mlx-batch continue {place.name}` goes on", err=True)


@click.command(
    "continue", cls=GroupedCommand, epilog=_WHERE, short_help="Let a paused or halted RUN go on."
)
@goes_on
def continue_(connection: Redis, run_id: str) -> Enqueued:
    """Let a paused or halted RUN go on, without reading its input again; resume any other."""
    return continue_run(connection, run_id)


@click.command(cls=GroupedCommand, epilog=_WHERE, short_help="Go on with what is missing of RUN.")
@goes_on
def resume(connection: Redis, run_id: str) -> Enqueued:
    """Go on with what of RUN is neither done nor queued nor in a worker."""
    return resume_run(connection, run_id)


def _require_errors(context: click.Context, errors: click.Parameter, is_given: bool) -> bool:
    """Refuse a `retry` that does not say of which rows; a type is one of errors."""
    if not is_given and context.params.get("error_type") is None:
        raise click.MissingParameter(ctx=context, param=errors)
    return is_given


@click.command(cls=GroupedCommand, epilog=_WHERE, short_help="Run the error rows of RUN again.")
@goes_on
@click.option(
    "--errors",
    is_flag=True,
    callback=_require_errors,
    help="Those that ended in an error.  [required without --type]",
)
@click.option(
    "--type",
    "error_type",
    metavar="T",
    is_eager=True,  # `--errors` asks for it
    help="Only those in error with this error_type.",
)
def retry(connection: Redis, run_id: str, error_type: str | None, **_: bool) -> Enqueued:
    """Run rows of a finished RUN again, and replace them in its dataset."""
    rows, enqueued = retry_errors(connection, run_id, error_type=error_type)
    # Not by click, which would write through a progress display.
    sys.stderr.write(f"{counted(rows, 'row')} to be tried again\n")
    return enqueued


@click.command()
@run_argument()
@run_option
def forget(url: str | None, run: str) -> None:
    """Remove RUN's jobs and record from the server; its dataset stays.

    Of a run of `mlx-batch run` its own server's data is removed.
    """
    folder = Path(run).expanduser().absolute()
    forgotten = f"no server knows the run of {folder}; the dataset stays, as far as it got"
    own = own_server(folder)
    if own.is_dir():
        EmbeddedRedis.require_free(own)
        shutil.rmtree(own, ignore_errors=True)
        click.echo(forgotten)
        return
    with find_run(url, run) as place:
        if place.connection is not None:
            jobs = forget_run(place.connection, place.run_id)
            forgotten = f"{place.run_id} and {counted(jobs, 'job')} are forgotten"
        elif not WorkerSettings.is_kept(folder):
            raise unknown(place, "forget", url)
    click.echo(forgotten)


COMMANDS = (status, tail, pause, continue_, resume, retry, forget)

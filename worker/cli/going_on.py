"""`goes_on`: a command that lets a run go on, with workers of its own or on the server given."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import click
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console

from jobs.adopt import adopt_run, spec_of
from jobs.connection import connect
from jobs.dataset import Dataset
from jobs.errors import LedgerError, RunNotFoundError
from jobs.ledger import Ledger
from jobs.producer import Enqueued
from jobs.wording import counted, plain
from vllm_mlx.scheduler_config import SchedulerConfig
from worker.cli.exit_codes import ExitCode
from worker.cli.grouped_help import all_of, group
from worker.cli.options import Count, adapter_option, on_finish_option, scheduler_options
from worker.cli.preview import after_a_look
from worker.cli.run_argument import (
    find_run,
    own_folder,
    run_argument,
    run_of,
    run_option,
    unknown,
)
from worker.cli.signals import end_on_signals
from worker.cli.summary import with_summary
from worker.local.embedded_redis import (
    FolderLockedError,
    is_at_work,
    living_server,
    own_server,
)
from worker.local.known_run import Act, KnownRun, leave_own_server
from worker.local.local_run import run_locally
from worker.local.on_finish import OnFinish
from worker.local.run_display import RunDisplay
from worker.local.run_result import RunResult
from worker.local.run_settings import settings_from
from worker.local.worker_settings import WorkerSettings
from worker.status.serving import obstacles
from worker.status.status import RunStatus, run_status

MOST_OF_AN_END = 10.0  # seconds that a run which is ending is waited for
_HERE = ("model", "adapter", "workers", "on_finish", "strict", *SchedulerConfig.model_fields)

_work_options = all_of(
    group(
        "Workers of its own; as they were told before, but for what is given",
        click.option("--model", help="Where its model lies now, or that it is to run here."),
        adapter_option,
        click.option("--workers", type=Count(), help="Worker processes, each with a model."),
    ),
    scheduler_options,
    on_finish_option,
    click.option("--strict", is_flag=True, default=None, help="Exit as `run --strict` does."),
)


def goes_on(command: Callable[..., Enqueued]) -> Callable[..., None]:
    """Give a command RUN and the server that knows it, and have worked on what it enqueues.

    A run of `mlx-batch run` with no server given goes on here, in its folder, as it began there.
    """

    @run_argument()
    @run_option
    @_work_options
    @wraps(command)
    def found(url: str | None, run: str, **options: Any) -> None:
        given = {name: options.pop(name) for name in _HERE}
        given = {name: value for name, value in given.items() if value is not None}

        def act(connection: Redis, run_id: str) -> Enqueued:
            return command(connection, run_id, **options)

        name = command.__name__.strip("_")
        if url is None:
            _await_end(Path(run).expanduser().absolute(), may_join=name == "continue")
        folder = own_folder(url, run, is_here="model" in given)
        if folder is not None:
            sys.exit(_work_here(folder, act, given))
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise click.UsageError(
                f"{flags}: only where RUN goes on in its folder, with no server given"
            )
        _enqueue(url, run, act, name)

    return found


def _work_here(folder: Path, act: Act, given: dict[str, Any]) -> ExitCode:
    """Let a run go on in its folder, with a server and workers of its own, as `run` does."""
    strict, on_finish = given.pop("strict", False), given.pop("on_finish", None)
    settings = _settings(folder, given)
    end_on_signals()
    console, finish = Console(), OnFinish(on_finish, folder)

    def run() -> RunResult:
        with RunDisplay(console) as display:
            known, show = KnownRun(folder, act, settings), finish.see_and(display.update)
            return run_locally(None, lambda _: known, settings, show)

    def looked() -> RunResult:
        with finish.at_the_end():
            return after_a_look(console, run, run)

    again = resume_of(folder, on_finish)
    result = with_summary(console, looked, has_server=False, again=again)
    return ExitCode.of_rows(result.ok, result.error, strict=strict)


def resume_of(folder: Path, on_finish: str | None) -> str:
    """Return the command that goes on with the run of a folder, which knows all but whom to tell.

    It keeps no command for a shell, since it may come from somebody else.
    """
    words = ["mlx-batch", "resume", str(folder)]
    return shlex.join(words if on_finish is None else [*words, "--on-finish", on_finish])


def _await_end(folder: Path, *, may_join: bool) -> None:
    """Wait for a run that is ending in the folder.

    Args:
        may_join: one that is halted, with rows under way, is let go on as it is.

    Raises:
        FolderLockedError: one is at work there, and does not end.
    """
    until = time.monotonic() + MOST_OF_AN_END
    while is_at_work(own_server(folder)):
        status = _living_status(folder)
        is_halted = status is not None and status.halt is not None
        if may_join and is_halted and status and not status.is_over:
            return
        is_ending = is_halted or status is None or status.is_over
        if time.monotonic() > until or not is_ending:
            how = "is ending yet" if is_ending else "is at work"
            raise FolderLockedError(
                f"a run {how} in {folder}; `mlx-batch status {shlex.quote(str(folder))}` tells "
                "where it stands"
            )
        time.sleep(0.1)


def _living_status(folder: Path) -> RunStatus | None:
    """Return what the server that lives in a folder says of its run; None if it does not."""
    with suppress(RedisError, RunNotFoundError, LedgerError):  # it is starting, or ending
        url = living_server(own_server(folder))
        if url is not None:
            with connect(url) as connection:
                run_id = run_of(connection, folder)
                return None if run_id is None else run_status(connection, run_id)
    return None


def _settings(folder: Path, given: dict[str, Any]) -> WorkerSettings:
    scheduler = settings_from(SchedulerConfig, given).model_dump(exclude_none=True)
    settings = WorkerSettings.read(folder)
    if settings is None:  # of an earlier version, or worked on elsewhere
        model = given.get("model") or (Dataset(folder).is_claimed and spec_of(folder).model)
        if not model or ("model" not in given and "@" in model):
            raise click.UsageError(
                f"give --model (and --adapter): {folder} does not say where its model"
                f"{f', {model},' if model else ''} lies"
            )
        settings = WorkerSettings(model=model)
    bounds = SchedulerConfig.of(**(settings.scheduler.model_dump() | scheduler))
    return settings.model_copy(update=given | {"scheduler": bounds})


def _enqueue(url: str | None, run: str, act: Act, command: str) -> None:
    """Enqueue for the workers of the server that knows the run, or learns of it."""
    folder = Path(run).expanduser().absolute()
    with ExitStack() as stack:
        given = None if url is None else stack.enter_context(connect(url))
        if given is not None:
            leave_own_server(folder, given)
        place = stack.enter_context(find_run(url, run))
        if (connection := place.connection) is None:
            if given is None:
                raise unknown(place, command, url)
            connection = given
            adopt_run(connection, place.folder)
        tell_enqueued(connection, act(connection, place.run_id))
        if given is not None and folder.is_dir():
            WorkerSettings.forget(folder)
        click.echo(place.run_id)


def tell_enqueued(connection: Redis, enqueued: Enqueued) -> None:
    """Say what was enqueued, and what keeps it from being worked on."""
    spec = enqueued.spec
    if enqueued.bad_rows:  # not of a run that was enqueued before
        rows = counted(len(enqueued.bad_rows), "bad row")
        click.echo(f"{rows} will be in error in the dataset:", err=True)
        for each in enqueued.bad_rows.described():
            click.echo(f"  {each}", err=True)
    rows = counted(spec.input_rows, "row")
    if spec.rows != spec.input_rows:
        rows += f" with {counted(spec.rows, 'sample')}"
    shards = f"{enqueued.shards:,} of {counted(spec.shards, 'shard')}"
    click.echo(f"{rows}; {shards} enqueued{_others(connection, enqueued)}", err=True)
    for obstacle in obstacles(connection, spec) if enqueued.shards else ():
        click.echo(f"warning: {plain(obstacle)}", err=True)


def _others(connection: Redis, enqueued: Enqueued) -> str:
    """Return where the shards are that were not enqueued."""
    spec = enqueued.spec
    if enqueued.shards == spec.shards:
        return ""
    done = Ledger(connection).shards_done(spec.run_id)
    under_way = max(0, spec.shards - done - enqueued.shards)
    told = {f"{under_way:,} on the way already": under_way, f"{done:,} done": done}
    return "".join(f", {each}" for each, count in told.items() if count)

"""The command line: `mlx-batch run | enqueue | worker | status | tail | resume | retry | …`."""

from __future__ import annotations

import logging
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from redis import Redis
from rich.console import Console

from jobs.connection import connect, redacted
from jobs.dataset import Dataset
from jobs.dataset import verify as verify_dataset
from jobs.preparation import prepare_run
from jobs.producer import enqueue_prepared
from jobs.wording import counted, incomplete
from vllm_mlx import __version__
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.scheduler_config import SchedulerConfig
from worker.cli import run_commands
from worker.cli.acl import acl
from worker.cli.command_group import HELP, CommandGroup, something_is_begun
from worker.cli.doctor import doctor
from worker.cli.exit_codes import ExitCode
from worker.cli.export import export_command
from worker.cli.going_on import resume_of, tell_enqueued
from worker.cli.grouped_help import WORDS, GroupedCommand, examples, group
from worker.cli.local_path import LocalPath
from worker.cli.options import (
    Count,
    adapter_option,
    enqueue_options,
    media_options,
    model_option,
    on_finish_option,
    output_root_option,
    report_option,
    scheduler_options,
    seconds_option,
    server_option,
    url_option,
    with_redis,
)
from worker.cli.plan import plan
from worker.cli.preview import run_with_preview
from worker.cli.report import report_command
from worker.cli.signals import end_on_signals
from worker.cli.summary import with_summary
from worker.local.local_workers import report_media_flags
from worker.local.run_settings import media_policy_from, run_options_from, settings_from
from worker.logs import log_to_stderr

logger = logging.getLogger("mlx_batch")


@click.group(
    cls=CommandGroup,
    context_settings=HELP,
    epilog=examples(
        "mlx-batch run prompts.jsonl --model smollm2-135m --out answers",
        "mlx-batch run -h",
    ),
)
@click.version_option(__version__, prog_name="mlx-batch")
def main() -> None:
    """Bulk inference for MLX: a prompt file in, a Parquet dataset out."""


for command in (*run_commands.COMMANDS, acl, doctor, export_command, plan, report_command):
    main.add_command(command)


@main.command(
    cls=GroupedCommand,
    short_help="Enqueue PROMPTS, work and verify: all in one.",
    epilog=examples(
        "mlx-batch run prompts.jsonl --model smollm2-135m --out answers",
        "mlx-batch run reviews.csv --prompt 'Good or bad? {{ review }}' \\",
        "    --choices good,bad --model smollm2-135m --out labels",
    ),
)
@enqueue_options
@group(
    "Batch",
    click.option(
        "--workers",
        type=Count(),
        default=1,
        show_default=True,
        help="Worker processes, each with a model of its own.",
    ),
)
@scheduler_options
@media_options
@url_option("A Redis to use instead of our own.")
@group("What ends it early", on_finish_option)
@click.option("--strict", is_flag=True, help="Exit with 1 if a row ended in error.")
@report_option
@click.option("--yes", is_flag=True, help="Go on after --preview without being asked.")
def run(strict: bool, yes: bool, **options: Any) -> None:
    """Everything in one: enqueue PROMPTS, work, verify, with a progress display.

    Images and videos are read from the folder of PROMPTS (or of --videos, --images), and from
    where --allowed-media-path and --allowed-media-domain say.
    """
    end_on_signals()
    console = Console()
    has_server, again = options["url"] is not None, _again(**options)
    result = with_summary(
        console,
        partial(run_with_preview, console, options, yes=yes),
        has_server=has_server,
        again=again,
    )
    sys.exit(ExitCode.of_rows(result.ok, result.error, strict=strict))


@main.command(
    cls=GroupedCommand,
    short_help="Validate PROMPTS and enqueue it.",
    epilog=examples(
        "mlx-batch enqueue prompts.jsonl --model smollm2-135m --out answers \\",
        "    -u redis://localhost",
        "mlx-batch enqueue --images 'photos/*.jpg' --prompt 'Describe it.' \\",
        "    --model mlx-community/Qwen3-VL-4B-Instruct-3bit --out captions",
    ),
)
@enqueue_options
@with_redis
def enqueue(connection: Redis, **options: Any) -> None:
    """Validate PROMPTS and enqueue it; prints the run id on the last line."""
    prepared = prepare_run(**run_options_from(options))
    something_is_begun()
    enqueued = enqueue_prepared(connection, prepared)
    if enqueued.moved:
        click.echo(f"what {enqueued.spec.out} held is now in {enqueued.moved}", err=True)
    tell_enqueued(connection, enqueued)
    click.echo(enqueued.spec.run_id)


@main.command(cls=GroupedCommand)
@group("Model", model_option, adapter_option)
@server_option
@scheduler_options
@media_options
@click.option("--burst", is_flag=True, help="End when nothing is left to do.")
@click.option("--name", help="The worker's name; default: a random one.")
@seconds_option("--grace", 10.0, "How long rows under way may go on after Ctrl-C or SIGTERM.")
@seconds_option(
    "--redis-timeout", 300.0, "How long to wait for a Redis that is away, before the worker ends."
)
@output_root_option
@report_option
@click.option("-v", "--verbose", is_flag=True, help="Log what RQ does, too.")
def worker(
    model: str,
    adapter: Path | None,
    url: str,
    burst: bool,
    redis_timeout: float,
    report: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Answer the rows of MODEL's jobs; stop with Ctrl-C."""
    from worker.batch_worker import BatchWorker
    from worker.engine.supervisor import SupervisedEngine

    log_to_stderr(verbose)
    config, media = settings_from(SchedulerConfig, options), media_policy_from(options)
    engine = SupervisedEngine(model, config, adapter=adapter, media=media, verbose=verbose)
    with connect(url, patience=redis_timeout) as connection:
        try:
            given = {"connection": connection, "redis_timeout": redis_timeout, **options}
            given["report_media"] = report_media_flags(media) if report else None
            BatchWorker(model, engine, adapter=adapter, **given).work(burst=burst)
        except MLXBatchError:
            raise
        except ValueError as error:  # RQ: a worker of this name is at work
            raise click.UsageError(str(error)) from error


@main.command()
@click.argument("folder", type=LocalPath(file_okay=False))
@click.option("--strict", is_flag=True, help="Exit with 1 if a row ended in error.")
def verify(folder: Path, strict: bool) -> None:
    """Prove that FOLDER holds every input row exactly once."""
    verification = verify_dataset(folder)
    if not Dataset(folder).is_finished:
        verification.problems.append("_SUCCESS is missing: the run has not ended")
    for problem in verification.problems:
        click.echo(problem, err=True)
    click.echo(
        f"{counted(verification.rows_in, 'row')} in = "
        f"{verification.ok:,} ok + {verification.error:,} error"
        f"{incomplete(verification.incomplete)}"
        if verification.complete
        else f"{folder} is not complete"
    )
    if not verification.complete:
        sys.exit(ExitCode.NOT_WHOLE)
    if strict and verification.error:
        sys.exit(ExitCode.ROWS_IN_ERROR)


def _again(*, url: str | None, out: Path, on_finish: str | None, **_: Any) -> str:
    """Return the command that goes on with the run at hand, without a password."""
    if url is None:
        return resume_of(out, on_finish)
    given = click.get_current_context().meta[WORDS]
    words = [
        word.replace(url, redacted(url)) if url else word
        for before, word in zip(["", *given], given, strict=False)
        if word not in ("--overwrite", "--resume")
        and "--preview" not in (before, word.partition("=")[0])
    ]
    return shlex.join(["mlx-batch", "run", *words, "--resume"])

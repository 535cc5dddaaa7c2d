"""`after_a_look`: a run that shows its first rows and asks before it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from jobs.wording import clip, plain
from worker.local.file_run import run_file
from worker.local.interrupts import RunInterruptedError
from worker.local.on_finish import OnFinish
from worker.local.preview import PreviewRow, RunPreviewedError
from worker.local.run_display import RunDisplay
from worker.local.run_result import RunResult


def run_with_preview(console: Console, options: dict[str, Any], *, yes: bool) -> RunResult:
    """Run with a display; after a preview, which is shown, go on if that is wanted.

    Args:
        options: of `run_file`.
        yes: do not ask.

    Raises:
        click.UsageError: nobody can be asked.
        RunPreviewedError: it shall not go on; it can be resumed.
    """
    if options["preview"] and not yes and not can_ask():
        raise click.UsageError("--preview asks whether to go on: give --yes where nobody answers")
    finish = OnFinish(options.pop("on_finish"), Path(options["out"]))
    # What is answered stays so; the model is loaded again.
    rest = {**options, "preview": None, "resume": True, "overwrite": False}
    first, then = (partial(_displayed, console, finish, each) for each in (options, rest))
    with finish.at_the_end():
        return after_a_look(console, first, then, yes=yes)


def after_a_look(
    console: Console,
    run: Callable[[], RunResult],
    rest: Callable[[], RunResult],
    *,
    yes: bool = False,
) -> RunResult:
    """Run; after a preview, which is shown, run the rest if that is wanted.

    Raises:
        RunPreviewedError: it is not, or nobody can be asked.
        RunInterruptedError: Ctrl-C is the answer.
    """
    try:
        return run()
    except RunPreviewedError as halted:
        _print(console, halted.rows)
        if not yes and not (can_ask() and _is_wanted(halted)):
            raise
    return rest()


def _is_wanted(halted: RunPreviewedError) -> bool:
    try:
        return click.confirm("Go on with the rest?", err=True)
    except click.Abort as error:  # click makes one of Ctrl-C and of an input that has ended
        click.echo(err=True)  # the question's line has no end yet
        if not isinstance(error.__context__, KeyboardInterrupt):
            return False
        interrupted = RunInterruptedError()
        interrupted.result = halted.result
        raise interrupted from None


def can_ask() -> bool:
    """Return whether stdin is a terminal, where a question can be answered."""
    return sys.stdin.isatty()


def _displayed(console: Console, finish: OnFinish, options: dict[str, Any]) -> RunResult:
    with RunDisplay(console) as view:
        return run_file(progress=finish.see_and(view.update), **options)


def _print(console: Console, rows: Iterable[PreviewRow]) -> None:
    for row in rows:
        sample = f".{row.sample_index}" if row.sample_index else ""
        text = f"{plain(row.id)}{sample}: {clip(row.asked)}\n  → {clip(row.said)}"
        console.print(f"{text} ({row.finish_reason})", markup=False, highlight=False, emoji=False)

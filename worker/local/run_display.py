"""`RunDisplay`: the progress of a run on a terminal, in a notebook, or as lines of a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.jupyter import JupyterMixin
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from jobs.wording import clock, counted, row_as_line, rows_in_error
from worker.status.phase import Phase
from worker.status.progress import RunProgress
from worker.timer import Timer

PLAIN_EVERY = 10.0  # seconds between progress lines where there is no terminal
FRAMES = 8  # a second
_OVER = {Phase.FINISHED: Text("✓", "green"), Phase.STOPPED: Text("■", "yellow")}
_AT_THE_END = (Phase.VERIFYING, Phase.REPORTING, *_OVER)
_UNCOUNTED = (Phase.READING, Phase.STARTING, Phase.LOADING, Phase.VERIFYING, Phase.REPORTING)


class RunDisplay:
    """Shows what `update` is told while it is entered.

    A terminal and a notebook have some lines that are drawn again and again, everything else a line
    every ten seconds and one at the end.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: RunProgress | None = None
        self._told_at = 0.0
        self._knows_way = False
        self._spinner = Spinner("dots")
        self._next_line = Timer(PLAIN_EVERY)
        self._live: Live | None = None
        self._cell: Any = None
        if console.is_interactive:
            self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=FRAMES)

    def update(self, progress: RunProgress) -> None:
        """Take where the run stands."""
        before, self._progress = self._progress, progress
        self._told_at = time.monotonic()
        if self._live and (before is None or before.phase is not progress.phase):
            self._live.refresh()  # a phase may be shorter than a frame
        if progress.moved and not (before and before.moved):
            self._note(f"what the folder held is now in {progress.moved}")
        if progress.slower_way and not self._knows_way:
            self._knows_way = True
            self._note(f"the model runs {progress.slower_way}; see docs/models.md")
        if self._console.is_jupyter:
            self._show_in_cell(_Drawn(progress, self._spinner))
            return
        is_news = progress.phase in (Phase.ENDING, *_OVER)
        is_news &= before is None or before.phase is not progress.phase
        if not self._live and (self._next_line.is_due or is_news):
            self._next_line.restart()
            self._note(as_line(progress))

    def _note(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show_in_cell(self, shown: _Drawn) -> None:
        if self._cell is None:
            from IPython.display import display  # a notebook has it

            self._cell = display(shown, display_id=True)
        else:
            self._cell.update(shown)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._live:
            # An input that is refused needs no bar above the reason.
            is_begun = self._progress is not None and self._progress.run_id is not None
            self._live.transient = kind is not None and not is_begun
            self._live.stop()

    def _draw(self) -> RenderableType:
        if self._progress is None:
            return Text("")
        return drawn(self._progress, self._spinner, time.monotonic() - self._told_at)


class _Drawn(JupyterMixin):
    """A progress that a notebook shows as HTML, and Rich as lines."""

    def __init__(self, progress: RunProgress, spinner: Spinner) -> None:
        self._progress = progress
        self._spinner = spinner

    def __rich__(self) -> RenderableType:
        return drawn(self._progress, self._spinner)


def drawn(progress: RunProgress, spinner: Spinner, since: float = 0.0) -> RenderableType:
    """Return the lines of a terminal, of 80 columns or more.

    Args:
        since: seconds since this was so; clocks go on.
    """
    is_over = progress.phase in _OVER
    is_ending = progress.phase in (Phase.ENDING, *_AT_THE_END)
    since = 0.0 if is_over else since
    percent = percent_of(progress)
    head = Table.grid(padding=(0, 1), expand=True)
    for ratio in (None, None, 1, None, None, None):
        head.add_column(no_wrap=True, ratio=ratio)
    head.add_row(
        _OVER.get(progress.phase, spinner),
        Text(progress.phase, "bold"),
        ProgressBar(total=1.0, completed=progress.fraction or 0.0, pulse=not percent),
        Text(percent),
        Text(clock(progress.elapsed_seconds + since), "cyan"),
        Text("" if is_ending else eta_of(progress, since)),
    )
    lines: list[RenderableType] = [head]
    if told := rows_of(progress):
        lines.append(told)
    if told := engine_of(progress, since):
        lines.append(told)
    if not is_over and progress.sample:
        lines.append(Text(f"  {row_as_line(progress.sample)}", "dim"))
    for line in lines[1:]:
        assert isinstance(line, Text)
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def percent_of(progress: RunProgress) -> str:
    """Return which part is done; nothing while nothing countable moves."""
    if progress.fraction is None or progress.phase in _UNCOUNTED:
        return ""
    return f"{100 * progress.fraction:.0f}%"


def eta_of(progress: RunProgress, since: float = 0.0) -> str:
    """Return how long it will take; a bound before the first row is answered."""
    if progress.remaining_seconds is None:
        return "ETA -"
    is_bound = progress.rows_done <= progress.rows_error and progress.remaining_seconds
    left = max(1.0, progress.remaining_seconds - since)  # it is not over
    return f"ETA {'≤ ' * bool(is_bound)}{clock(left)}"


def rows_of(progress: RunProgress) -> Text | None:
    """Return how many rows are done, and which are in error; None before they are counted."""
    if progress.rows is None:
        return Text(f"  {counted(progress.rows_read, 'row')} read") if progress.rows_read else None
    text = Text(f"  {progress.rows_done:,}/{counted(progress.rows, 'row')}")
    if cut := progress.rows_incomplete:
        text.append(f", {cut:,} incomplete", "yellow")
    if progress.rows_error:
        text.append(f", {rows_in_error(progress.rows_error, progress.error_types)}", "red")
    return text


def engine_of(progress: RunProgress, since: float = 0.0) -> Text | None:
    """Return what the engines do; None while there are none."""
    if progress.grace_seconds is not None:
        return Text(f"  {ending_of(progress, since)}", "yellow")
    if progress.halt is not None and progress.phase is Phase.ENDING:
        return Text(f"  ending {counted(progress.running, 'row')}; {progress.halt}", "yellow")
    is_at_work = progress.running or progress.waiting
    if not is_at_work or progress.phase in _AT_THE_END:
        return None
    parts = [
        f"in {progress.prompt_tokens_per_second:,.0f} tok/s",
        f"out {progress.completion_tokens_per_second:,.0f} tok/s",
        f"{progress.running:,} of {progress.max_num_seqs:,} slots",
        f"{progress.waiting:,} waiting",
    ]
    if progress.workers > 1:
        parts.append(f"{progress.workers} workers")
    return Text("  " + ", ".join(parts))


def ending_of(progress: RunProgress, since: float = 0.0) -> str:
    """Return what Ctrl-C has begun."""
    left = (progress.grace_seconds or 0.0) - since
    if left <= 0:
        return "stopping now"
    rows = counted(progress.running, "row")
    return f"ending {rows}, at most {left:.0f} s; Ctrl-C again to stop now"


def as_line(progress: RunProgress) -> str:
    """Return it as one line of a log."""
    parts = [str(progress.phase)]
    if told := rows_of(progress):
        parts.append(told.plain.strip())
    if told := engine_of(progress):
        parts.append(told.plain.strip())
    if percent := percent_of(progress):
        parts.append(percent)
    parts.append(clock(progress.elapsed_seconds))
    if progress.remaining_seconds and progress.grace_seconds is None:
        parts.append(eta_of(progress))
    return ", ".join(parts)

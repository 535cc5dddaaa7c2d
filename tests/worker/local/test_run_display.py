"""The progress of a run as it is drawn, at 80 columns and as lines of a log."""

from __future__ import annotations

import io
import sys
import types
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.spinner import Spinner

from jobs.ledger import Halt, HaltReason
from jobs.result_row import ResultRow
from vllm_mlx.outputs import GenerationOutput
from worker.local.run_display import PLAIN_EVERY, RunDisplay, as_line, drawn
from worker.status.phase import Phase
from worker.status.progress import RunProgress

SAMPLE = ResultRow("q-1", 1, GenerationOutput("word " * 60, 3, 60, "stop"))
ANSWERING = RunProgress(
    phase=Phase.ANSWERING,
    run_id="run-1",
    rows=640_000,
    rows_done=262_143,
    rows_incomplete=7,
    error_types={"InvalidRequestError": 2, "ContextLengthError": 1200},
    fraction=0.41,
    elapsed_seconds=3725,
    remaining_seconds=36_000,
    prompt_tokens_per_second=12_345.6,
    completion_tokens_per_second=987.6,
    workers=2,
    running=32,
    max_num_seqs=64,
    waiting=96,
    sample=SAMPLE,
)


def shown(progress: RunProgress, width: int = 80, **options: object) -> list[str]:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(drawn(progress, Spinner("dots"), **options))  # type: ignore[arg-type]
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_it_is_said_once_why_a_model_does_not_run_in_slots() -> None:
    console = Console(record=True, width=80, file=io.StringIO())
    way = "one row at a time (not in slots: slots have no form for chunks)"
    with RunDisplay(console) as display:
        display.update(ANSWERING)
        display.update(replace(ANSWERING, slower_way=way))
        display.update(ANSWERING)  # its worker has gone
        display.update(replace(ANSWERING, slower_way=way))
    assert console.export_text().count(f"the model runs {way}; see docs/models.md") == 1


def test_all_of_it_fits_into_80_columns() -> None:
    head, rows, engine, sample = shown(ANSWERING)

    assert " answering ━━━━━" in head
    assert head.endswith(" 41% 1:02:05 ETA 10:00:00")
    assert rows.startswith("  262,143/640,000 rows, 7 incomplete, 1,202 in error: 1,200 Context")
    assert (rows[-1], len(rows)) == ("…", 80)
    assert engine == ("  in 12,346 tok/s, out 988 tok/s, 32 of 64 slots, 96 waiting, 2 workers")
    assert sample.startswith("  q-1: word word ")
    assert len(sample) == 80


def test_clocks_go_on_between_two_looks() -> None:
    assert shown(ANSWERING, since=5.0)[0].endswith(" 1:02:10 ETA 9:59:55")
    assert shown(ANSWERING, since=86_400)[0].endswith(" ETA 0:00:01"), "and it is not over"


def test_nothing_countable_has_a_bar_that_claims_no_part() -> None:
    (head,) = shown(RunProgress(phase=Phase.READING))
    assert " reading the input " in head
    assert "%" not in head
    head, rows = shown(RunProgress(phase=Phase.READING, rows_read=12_400))
    assert "%" not in head
    assert rows == "  12,400 rows read"
    at_the_end = (Phase.VERIFYING, Phase.REPORTING)
    for phase in (Phase.STARTING, Phase.LOADING, *at_the_end):
        head, rows = shown(RunProgress(phase=phase, rows=4, fraction=0.0, elapsed_seconds=1))
        assert f" {phase} " in head
        assert "%" not in head
        assert head.endswith(" 0:00:01" if phase in at_the_end else " 0:00:01 ETA -")
        assert rows == "  0/4 rows"
        loading = RunProgress(phase=phase, rows=4, fraction=0.0, elapsed_seconds=1)
        assert as_line(loading) == f"{phase}, 0/4 rows, 0:00:01"


def test_the_time_of_a_run_without_an_answer_is_a_bound() -> None:
    begun = RunProgress(phase=Phase.PREFILL, rows=4, fraction=0.1, remaining_seconds=60)
    assert shown(begun)[0].endswith("ETA ≤ 0:01:00")


def test_errors_are_red_unless_no_color_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def written() -> str:
        console = Console(width=80, file=io.StringIO(), force_terminal=True)
        console.print(drawn(ANSWERING, Spinner("dots")))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31m, 1,202 in error" in written()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in written()
    assert "1,202 in error" in written()


def test_an_interrupted_run_says_how_long_it_may_take() -> None:
    ending = RunProgress(
        phase=Phase.ENDING, rows=4, rows_done=1, fraction=0.5, running=12, grace_seconds=9.8
    )
    assert shown(ending)[2] == "  ending 12 rows, at most 10 s; Ctrl-C again to stop now"
    assert shown(ending, since=10.0)[2] == "  stopping now"
    line = as_line(replace(ending, remaining_seconds=60))
    assert "ending 12 rows, at most 10 s" in line
    assert "ETA" not in line


def test_a_halted_run_says_why_and_what_still_ends() -> None:
    halt = Halt(HaltReason.MAX_TIME, "8h have passed (max_time)")
    halting = replace(ANSWERING, phase=Phase.ENDING, halt=halt, remaining_seconds=None)
    head, _, engine, _ = shown(halting)
    assert " ending " in head
    assert head.endswith(" 41% 1:02:05")
    assert engine == "  ending 32 rows; halted: 8h have passed (max_time)"
    assert "ETA" not in as_line(halting)


def test_a_run_that_was_ended_early_has_a_bar_that_stands() -> None:
    stopped = RunProgress(phase=Phase.STOPPED, rows=4, rows_done=1, fraction=0.3, sample=SAMPLE)
    head, rows = shown(stopped, since=9.0)
    assert head.startswith("■ stopped ")
    assert head.endswith(" 30% 0:00:00")
    assert rows == "  1/4 rows"


@pytest.mark.parametrize("is_dumb_terminal", [False, True])
def test_without_a_terminal_a_line_comes_now_and_then_and_at_the_end(
    is_dumb_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb" if is_dumb_terminal else "xterm-256color")
    file, is_terminal = io.StringIO(), is_dumb_terminal or None
    console = Console(record=True, width=80, file=file, force_terminal=is_terminal)
    done = RunProgress(phase=Phase.FINISHED, rows=4, rows_done=4, fraction=1.0, elapsed_seconds=12)
    with RunDisplay(console) as display:
        display.update(RunProgress(phase=Phase.READING))
        display.update(RunProgress(phase=Phase.LOADING, rows=4))
        display._next_line.due_at = 0.0  # PLAIN_EVERY seconds later
        display.update(ANSWERING)
        display.update(ANSWERING)
        display.update(done)

    assert PLAIN_EVERY == 10
    assert console.export_text().splitlines() == [
        "reading the input, 0:00:00",
        "answering, 262,143/640,000 rows, 7 incomplete, 1,202 in error: 1,200 ContextLengthError, "
        "2 InvalidRequestError, in 12,346 tok/s, out 988 tok/s, 32 of 64 slots, 96 waiting, "
        "2 workers, 41%, 1:02:05, ETA 10:00:00",
        "finished, 4/4 rows, 100%, 0:00:12",
    ]


def test_what_rows_hold_moves_no_cursor() -> None:
    wild = ResultRow("\x1b[2J", 1, GenerationOutput("[red]\x1b[1A", 3, 60, "stop"))
    progress = RunProgress(phase=Phase.ANSWERING, rows=1, error_types={"\x1b[H": 1}, sample=wild)
    console = Console(width=80, file=io.StringIO(), force_terminal=True, no_color=True)
    console.print(drawn(progress, Spinner("dots")))
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert not any(code in written for code in ("\x1b[2J", "\x1b[1A", "\x1b[H"))
    assert "[red]" in written


def test_a_notebook_has_one_cell_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handle:
        def __init__(self) -> None:
            self.shown: list[Any] = []

        def update(self, what: Any) -> None:
            self.shown.append(what)

    handle = Handle()

    def display(what: Any, *, display_id: bool) -> Handle:
        assert display_id
        handle.update(what)
        return handle

    notebook = types.ModuleType("IPython.display")
    notebook.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    console = Console(force_jupyter=True, file=io.StringIO())
    with RunDisplay(console) as shown:
        shown.update(RunProgress(phase=Phase.READING))
        shown.update(ANSWERING)

    assert len(handle.shown) == 2
    html = handle.shown[-1]._repr_mimebundle_([], [])["text/html"]
    assert "answering" in html
    assert "262,143/640,000 rows" in html

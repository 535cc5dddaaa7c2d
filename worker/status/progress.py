"""`RunProgress`: a run at one moment, as the display draws it and a callback gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jobs.ledger import Counts, Halt
from jobs.result_row import ResultRow
from worker.status.phase import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """What is known of a run: all of it was said by the ledger or by a worker.

    Attributes:
        phase: what it does.
        run_id: None while its input is read.
        rows_read: of the input, while it is read.
        rows: of the dataset, once they are counted.
        rows_done: those that have ended, in error or not.
        rows_incomplete: those of them whose constrained answer is not whole.
        error_types: how many rows in error have which `error_type`.
        fraction: which part of the run is done, by the tokens of rows under way as well, 0 to 1;
            None while nothing can be counted.
        elapsed_seconds: since it began, or went on.
        remaining_seconds: until it ends, by the tokens seen so far; None before there are any.
        prompt_tokens, completion_tokens: what the engines have read and generated of it since.
        prompt_tokens_per_second, completion_tokens_per_second: the same in the last seconds.
        prefill_tokens_per_second, decode_tokens_per_second: mean speeds of the engines at that
            work, so without the time that loading takes; 0 before any.
        workers: how many are at work on it.
        running: rows in their batches.
        max_num_seqs: most rows there, in all.
        waiting: rows that wait for a place there.
        sample: the last row that has ended.
        grace_seconds: how long rows may go on after Ctrl-C; None if there was none.
        halt: why no more of its rows begin, while those under way end.
        before: what had been done when this session began; None of one in which no work was left.
        slower_way: how the model runs, and why so, if it is not in the fastest way.
        moved: where what the folder held is now, if it was overwritten.
    """

    phase: Phase
    run_id: str | None = None
    rows_read: int = 0
    rows: int | None = None
    rows_done: int = 0
    rows_incomplete: int = 0
    error_types: Mapping[str, int] = field(default_factory=dict)
    fraction: float | None = None
    elapsed_seconds: float = 0.0
    remaining_seconds: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_per_second: float = 0.0
    completion_tokens_per_second: float = 0.0
    prefill_tokens_per_second: float = 0.0
    decode_tokens_per_second: float = 0.0
    workers: int = 0
    running: int = 0
    max_num_seqs: int = 0
    waiting: int = 0
    sample: ResultRow | None = None
    grace_seconds: float | None = None
    halt: Halt | None = None
    before: Counts | None = None
    slower_way: str = ""
    moved: Path | None = None

    @property
    def rows_error(self) -> int:
        return sum(self.error_types.values())

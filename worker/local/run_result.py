"""`RunResult`: how a run ended, and a way to its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.adopt import counts_of
from jobs.dataset import Dataset
from worker.status.phase import Phase
from worker.status.progress import RunProgress

if TYPE_CHECKING:
    import pyarrow.dataset as pads


@dataclass(frozen=True, slots=True)
class ErrorType:
    """Rows in error of one type: how many, and the first of them."""

    count: int
    id: str
    error: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that has ended, finished or not.

    Attributes:
        run_id: names it on its server.
        out: the folder of its dataset.
        is_finished: the dataset is verified, and has each row exactly once: `ok + error`.
        rows: of the run.
        ok: rows with an answer.
        error: rows that failed.
        incomplete: those of the rows that are ok whose constrained answer is not whole.
        errors: the rows in error by their `error_type`, most first.
        duplicates: rows that were given the answer of another.
        prompt_tokens, completion_tokens: of all rows but these.
        session_rows, session_prompt_tokens, session_completion_tokens: what this session has
            added; less than all if it has resumed the run.
        seconds: of this session, by the clock on the wall.
        prefill_tokens_per_second, decode_tokens_per_second: mean speeds of the engines at that
            work in this session, without the time that loading takes; None where nothing was left
            to do.
        report: the page about it, if one is written, or will be in a moment.
    """

    run_id: str
    out: Path
    is_finished: bool
    rows: int
    ok: int
    error: int
    incomplete: int
    errors: Mapping[str, ErrorType]
    duplicates: int
    prompt_tokens: int
    completion_tokens: int
    session_rows: int
    session_prompt_tokens: int
    session_completion_tokens: int
    seconds: float
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    report: Path | None

    @classmethod
    def of(cls, out: Path, progress: RunProgress, *, report: Path | None = None) -> RunResult:
        """Return what is known of a run: rows from its folder, the rest from how it went.

        Raises:
            DatasetError: a file of the folder can't be read.
        """
        assert progress.run_id is not None
        assert progress.rows is not None
        files = Dataset(out).rows_files
        done = counts_of(files)
        before = done if progress.before is None else progress.before
        return cls(
            run_id=progress.run_id,
            out=out,
            is_finished=progress.phase is Phase.FINISHED,
            rows=progress.rows,
            ok=done.ok,
            error=done.error,
            incomplete=done.incomplete,
            errors=_errors(files) if done.error else {},
            duplicates=done.duplicates,
            prompt_tokens=done.prompt_tokens,
            completion_tokens=done.completion_tokens,
            session_rows=max(0, done.rows - before.rows),
            session_prompt_tokens=max(0, done.prompt_tokens - before.prompt_tokens),
            session_completion_tokens=max(0, done.completion_tokens - before.completion_tokens),
            seconds=progress.elapsed_seconds,
            prefill_tokens_per_second=progress.prefill_tokens_per_second or None,
            decode_tokens_per_second=progress.decode_tokens_per_second or None,
            report=report,
        )

    @property
    def rows_done(self) -> int:
        return self.ok + self.error

    def dataset(self) -> pads.Dataset:
        """Return the dataset, as Arrow reads it: its rows need not fit in memory.

        Of a run that is not finished, the rows that are there.
        """
        return _dataset(Dataset(self.out).rows_files)

    def read(self, *columns: str) -> Iterator[dict[str, Any]]:
        """Yield the rows in the order of the input; of all columns, unless some are named."""
        for batch in self.dataset().to_batches(columns=list(columns) or None):
            yield from batch.to_pylist()


def _dataset(files: Sequence[Path]) -> pads.Dataset:
    import pyarrow.dataset as pads  # brings pandas where there is one: few commands need it

    return pads.dataset(list(files), format="parquet")


def _errors(files: Sequence[Path]) -> dict[str, ErrorType]:
    import pyarrow.compute as pc

    failed = pc.field("finish_reason") == "error"
    found: dict[str, ErrorType] = {}
    for batch in _dataset(files).to_batches(columns=["id", "error_type", "error"], filter=failed):
        for row in batch.to_pylist():
            kind = row["error_type"] or ""
            before = found.get(kind, ErrorType(0, row["id"], row["error"] or ""))
            found[kind] = replace(before, count=before.count + 1)
    return dict(sorted(found.items(), key=lambda item: -item[1].count))

"""`RunResult`: how a run ended, and a way to its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.dataset import Dataset, Verification
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
    """A finished run.

    Attributes:
        run_id: names it on its server.
        out: the folder of its dataset.
        rows: of the dataset, each exactly once: `ok + error`.
        ok: rows with an answer.
        error: rows that failed.
        incomplete: those of the rows that are ok whose constrained answer was cut.
        errors: the rows in error by their `error_type`, most first.
        prompt_tokens, completion_tokens: of all rows.
        seconds: from the beginning to the end, by the clock on the wall.
        prefill_tokens_per_second, decode_tokens_per_second: mean speeds of the engines at that
            work, without the time that loading takes; None where nothing was left to do.
    """

    run_id: str
    out: Path
    rows: int
    ok: int
    error: int
    incomplete: int
    errors: Mapping[str, ErrorType]
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None

    @classmethod
    def of(cls, out: Path, verification: Verification, progress: RunProgress) -> RunResult:
        """Return what is known of a run whose dataset is verified."""
        return cls(
            run_id=Dataset(out).manifest()["run_id"],
            out=out,
            rows=verification.rows_in,
            ok=verification.ok,
            error=verification.error,
            incomplete=verification.incomplete,
            errors=_errors(out) if verification.error else {},
            prompt_tokens=verification.prompt_tokens,
            completion_tokens=verification.completion_tokens,
            seconds=progress.elapsed_seconds,
            prefill_tokens_per_second=progress.prefill_tokens_per_second or None,
            decode_tokens_per_second=progress.decode_tokens_per_second or None,
        )

    def dataset(self) -> pads.Dataset:
        """Return the dataset, as Arrow reads it: its rows need not fit in memory."""
        return _dataset(self.out)

    def read(self, *columns: str) -> Iterator[dict[str, Any]]:
        """Yield the rows in the order of the input; of all columns, unless some are named."""
        for batch in self.dataset().to_batches(columns=list(columns) or None):
            yield from batch.to_pylist()


def _dataset(out: Path) -> pads.Dataset:
    import pyarrow.dataset as pads  # brings pandas where there is one: few commands need it

    return pads.dataset(out / "data", format="parquet")


def _errors(out: Path) -> dict[str, ErrorType]:
    import pyarrow.compute as pc

    failed = pc.field("finish_reason") == "error"
    found: dict[str, ErrorType] = {}
    for batch in _dataset(out).to_batches(columns=["id", "error_type", "error"], filter=failed):
        for row in batch.to_pylist():
            kind = row["error_type"] or ""
            before = found.get(kind, ErrorType(0, row["id"], row["error"] or ""))
            found[kind] = replace(before, count=before.count + 1)
    return dict(sorted(found.items(), key=lambda item: -item[1].count))

"""`advice_of`: what a person who looks at the answers of a run may want to do otherwise."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from jobs.dataset import Dataset
from jobs.export import ExportFormat
from jobs.sources import Format
from jobs.wording import counted
from worker.local.run_result import RunResult

_EXPORTS = {
    Format.OPENAI: ExportFormat.OPENAI,
    Format.CSV: ExportFormat.CSV,
    Format.MEDIA: ExportFormat.TXT,
}
"""What an input is exported as; any other as JSONL."""
_MANY = 1 / 4
_AS_THEY_ARE = {"InvalidRequestError", "ContextLengthError"}
"""Errors of rows that would end so again, whatever is mended around them."""


def advice_of(result: RunResult) -> Iterator[str]:
    """Yield a line for each thing that rows tell of how they were asked."""
    empty = _ended_at_once(result) if result.ok else 0
    if empty and empty >= _MANY * result.ok:
        yield (
            f"{empty:,} of {counted(result.ok, 'answer')} {'is' if empty == 1 else 'are'} empty: a "
            "prompt is continued as it stands, and --chat asks it through the chat template"
        )


def is_worth_a_retry(result: RunResult) -> bool:
    """Whether a row in error might end otherwise if it is tried again."""
    return not result.errors.keys() <= _AS_THEY_ARE


def export_of(result: RunResult) -> str:
    """Return the command that writes the dataset as what its input was."""
    given = Dataset(result.out).manifest().get("input", {}).get("format")
    format = _EXPORTS.get(given, ExportFormat.JSONL)
    return f"mlx-batch export {shlex.quote(str(result.out))} --format {format}"


def _ended_at_once(result: RunResult) -> int:
    """Return how many plain prompts the model answered with nothing but its end token."""
    import pyarrow.compute as pc  # for this command only

    dataset = result.dataset()
    if Dataset(result.out).manifest().get("chat") or "prompt" not in dataset.schema.names:
        return 0
    free = pc.field("complete").is_null() & pc.field("scores").is_null()
    stopped = (pc.field("finish_reason") == "stop") & (pc.field("completion_tokens") == 1)
    count: int = dataset.count_rows(filter=stopped & free & pc.field("prompt").is_valid())
    return count

"""What the terminal shows: the progress of a run, its status, its end."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.dataset import Verification
from jobs.result_row import ResultRow
from jobs.sources.conversations import CONVERSATIONS
from worker.status import RunStatus
from worker.timer import Timer

# What moves a terminal's cursor or writes backwards.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PLAIN_EVERY = 5.0  # seconds between progress lines where there is no terminal


class RunDisplay:
    """The progress of a run: a bar on a terminal, elsewhere a line every few seconds.

    Attributes:
        bar: is shown while it is entered.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self.bar.add_task("rows", total=None, note="")
        self._is_loading = True
        self._last_line = ""
        self._next_line = Timer(PLAIN_EVERY)

    def update(self, status: RunStatus) -> None:
        """Show the state of the run."""
        done, rows = status.rows_done, status.spec.rows
        notes = [f"{status.tokens_per_second:.0f} tok/s"] if status.workers else []
        self._is_loading &= not status.workers  # later on, one that is silent is busy
        if self._is_loading and done < rows:
            notes = ["loading the model"]
        if errors := status.rows_error:
            notes.append(f"{errors} in error")
        if cut := status.rows_incomplete:
            notes.append(f"{cut} incomplete")
        self.bar.update(self._task, total=rows, completed=done, note=", ".join(notes))
        if not self._console.is_terminal:
            self._print_line(", ".join([f"{done}/{rows} rows", *notes]))

    def _print_line(self, line: str) -> None:
        if line != self._last_line and self._next_line.is_due:
            self._last_line = line
            self._next_line.restart()
            self._console.print(line, highlight=False)


def print_summary(
    console: Console, out: Path, verification: Verification, seconds: float, samples: int = 3
) -> None:
    """Print how a run ended: sample rows, tokens per second, where the dataset is."""
    rows = _sample(out, samples)
    console.print(f"{len(rows)} of {verification.rows_in} rows:", highlight=False)
    for row in rows:
        said = row["text"] or row["error"] or ""
        asked = f"  {plain(row['id'])}: {_clip(row['input'])}"
        asked += f"\n    → {_clip(said)} ({row['finish_reason']})"
        console.print(asked, markup=False, emoji=False, highlight=False, soft_wrap=True)
    tokens = verification.completion_tokens
    console.print(
        f"{verification.ok} rows answered, {verification.error} in error"
        f"{incomplete(verification.incomplete)}; "
        f"{tokens} tokens in {seconds:.1f} s: {tokens / max(seconds, 1e-9):.1f} tokens/s",
        highlight=False,
    )
    console.print(f"dataset: {out}", markup=False, emoji=False, highlight=False, soft_wrap=True)


def incomplete(rows: int) -> str:
    """Return how many constrained answers were cut, to follow other counts; nothing for none."""
    return f", {rows} incomplete (cut by max_tokens)" if rows else ""


def row_as_line(row: ResultRow) -> str:
    """Return a row as one line of a terminal."""
    output = row.output
    said = f"{output.error_type}: {output.error}" if output.error_type else output.text
    sample = f".{row.sample_index}" if row.sample_index else ""
    return f"{plain(row.id)}{sample}: {_clip(said)} ({output.finish_reason})"


def plain(text: str) -> str:
    """Return `text` without control characters: it may come from an untrusted producer."""
    return _CONTROL.sub("\ufffd", text)


def _sample(out: Path, count: int) -> list[dict[str, Any]]:
    import pyarrow.dataset as pads  # brings pandas where there is one: no other command needs it

    dataset = pads.dataset(out / "data", format="parquet")
    inputs = [
        name for name in ("prompt", "messages", CONVERSATIONS) if name in dataset.schema.names
    ]
    columns = ["id", "text", "finish_reason", "error", *inputs]
    rows = dataset.head(count, columns=columns).to_pylist()
    return [{**row, "input": _said(row)} for row in rows]


def _said(row: Mapping[str, Any]) -> str:
    """Return the prompt, or a chat's last message."""
    if row.get("prompt"):
        return str(row["prompt"])
    try:
        turns: Any = row.get("messages") or row.get(CONVERSATIONS)
        last = (json.loads(turns) if isinstance(turns, str) else turns)[-1]
        content = last["content"] if "content" in last else last["value"]
        if isinstance(content, list):
            return " ".join(part.get("text") or f"[{part['type']}]" for part in content)
        return str(content)
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""


def _clip(text: str, length: int = 160) -> str:
    text = plain(" ".join(text.split()))
    return text if len(text) <= length else text[: length - 1] + "…"

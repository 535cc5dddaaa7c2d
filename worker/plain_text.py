"""Text of rows, as a terminal can show it."""

from __future__ import annotations

import re

from jobs.result_row import ResultRow

# What moves a terminal's cursor or writes backwards.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Return `text` without control characters: it may come from an untrusted producer."""
    return _CONTROL.sub("\ufffd", text)


def clip(text: str, length: int = 160) -> str:
    """Return `text` on one line of so many characters, an ellipsis last where it is cut."""
    text = plain(" ".join(text.split()))
    return text if len(text) <= length else text[: length - 1] + "…"


def row_as_line(row: ResultRow) -> str:
    """Return a row as one line of a terminal."""
    output = row.output
    said = f"{output.error_type}: {output.error}" if output.error_type else output.text
    sample = f".{row.sample_index}" if row.sample_index else ""
    return f"{plain(row.id)}{sample}: {clip(said)} ({output.finish_reason})"

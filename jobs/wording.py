"""How numbers, durations and rows are said, in messages and in a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta

from jobs.result_row import ResultRow

# What moves a terminal's cursor or writes backwards.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def counted(count: int, noun: str) -> str:
    """Return a number and a noun with the ending that it needs: 1 row, 2,000 rows."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def incomplete(rows: int) -> str:
    """Return how many constrained answers are not whole, to follow other counts; nothing for none.

    `max_tokens` cut them, or the model ended within its thought.
    """
    return f", {rows} incomplete (constrained answer not whole)" if rows else ""


def rows_in_error(count: int, types: Mapping[str, int]) -> str:
    """Return "3 in error: 2 MediaError, 1 ContextLengthError".

    Args:
        types: how many are known to have which `error_type`.
    """
    most_first = sorted(types.items(), key=lambda item: -item[1])
    named = ", ".join(f"{of_type:,} {plain(name)}" for name, of_type in most_first if name)
    return f"{count:,} in error" + (f": {named}" if named else "")


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds: 1:02:03."""
    return str(timedelta(seconds=round(seconds)))


def spelled(seconds: float) -> str:
    """Return the two largest units of hours, minutes and seconds: 1 h 02 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes >= 2 else f"{60 * minutes + rest} s"


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

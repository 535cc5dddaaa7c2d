"""Words that several commands have for the rows of a run."""

from __future__ import annotations


def incomplete(rows: int) -> str:
    """Return how many constrained answers were cut, to follow other counts; nothing for none."""
    return f", {rows} incomplete (cut by max_tokens)" if rows else ""

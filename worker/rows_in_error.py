"""`rows_in_error`: how many rows are in error, by type."""

from __future__ import annotations

from collections.abc import Mapping

from worker.plain_text import plain


def rows_in_error(count: int, types: Mapping[str, int]) -> str:
    """Return "3 in error: 2 MediaError, 1 ContextLengthError".

    Args:
        types: how many are known to have which `error_type`.
    """
    most_first = sorted(types.items(), key=lambda item: -item[1])
    named = ", ".join(f"{of_type:,} {plain(name)}" for name, of_type in most_first if name)
    return f"{count:,} in error" + (f": {named}" if named else "")

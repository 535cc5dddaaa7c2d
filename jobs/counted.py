"""Numbers of things, as people read them."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return a number and a noun with the ending that it needs: 1 row, 2,000 rows."""
    return f"{count:,} {noun}{'s' * (count != 1)}"

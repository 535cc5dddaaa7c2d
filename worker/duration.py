"""Durations, as people read them."""

from __future__ import annotations

from datetime import timedelta


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

"""The width that a batch generator is fastest at, found with few and short runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

WIDTHS = (8, 16, 32, 64, 128)
FIRST = 32
HOPELESS = 1.1

Probe = Callable[[int, int, float], float | None]


def best_width(
    probe: Probe, total: int, sample: int, limit: float, widths: Sequence[int] = WIDTHS
) -> int:
    """The fastest of `widths` on the first `sample` of `total` requests.

    A sample can't tell widths apart that are larger than it, so where the widest of those that it
    can is the best, that one and the next are tried again on twice the next width's requests,
    until the wider one is no better or all requests are in.

    Args:
        probe: runs (width, requests, limit in seconds); returns the seconds, or None when it was
            cut off at the limit or failed.
        limit: seconds a probe may take. One that takes a tenth longer than the best before it on
            the same requests is cut off, too.
    """
    sample = min(sample, total)
    enough = next((width for width in widths if width >= sample), widths[-1])
    best = _fastest(probe, [width for width in widths if width <= enough], sample, limit)
    told_apart = enough
    while best == told_apart and best < total and best != widths[-1]:
        wider = widths[widths.index(best) + 1]
        best = _fastest(probe, [best, wider], min(total, 2 * wider), limit)
        told_apart = wider
    return best


def _fastest(probe: Probe, widths: Sequence[int], requests: int, limit: float) -> int:
    """From `FIRST` outwards, the wider of two first; `FIRST` when every probe was cut off."""
    order = sorted(widths, key=lambda width: (abs(math.log2(width / FIRST)), -width))
    best, best_seconds = order[0], math.inf
    for width in order:
        seconds = probe(width, requests, min(limit, HOPELESS * best_seconds))
        if seconds is not None and seconds < best_seconds:
            best, best_seconds = width, seconds
    return best

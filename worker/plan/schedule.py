"""`decode_seconds`: what the steps of all answers take in a batch that is filled as it empties."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from vllm_mlx import platform
from vllm_mlx.batching.slots.ring import width_for
from vllm_mlx.scheduler_config import WINDOW

LATE = 1
"""Steps that a row stays after its last token: the next one is launched before that is read."""


def decode_seconds(answers: Iterable[int], width: int, step: Callable[[int], float]) -> float:
    """Follow `Scheduler`: the longest of a window start first, as soon as there is room.

    Args:
        answers: tokens of each, in the input's order.
        width: most rows side by side.
        step: seconds of a step of so many rows.
    """
    waiting = _in_order(answers, WINDOW * width)
    refill = max(1, int(width * platform.refill_share()))
    ends: list[int] = []  # by steps
    now, seconds, following = 0, 0.0, next(waiting, None)
    costs = {
        rows: step(width_for(rows, width, platform.width_tile())) for rows in range(1, width + 1)
    }
    while ends or following is not None:
        if not ends or width - len(ends) >= refill:
            while following is not None and len(ends) < width:
                heapq.heappush(ends, now + following + LATE)
                following = next(waiting, None)
        seconds += (ends[0] - now) * costs[len(ends)]
        now = ends[0]
        while ends and ends[0] == now:
            heapq.heappop(ends)
    return seconds


def _in_order(answers: Iterable[int], window: int) -> Iterator[int]:
    left = (each for each in answers if each)
    while some := list(islice(left, window)):
        yield from sorted(some, reverse=True)

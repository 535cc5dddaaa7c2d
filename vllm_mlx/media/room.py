"""`Room`: bounds what threads hold in pixels while they decode."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Claim = Callable[[int], None]
"""Called with bytes before they are allocated; returns when there is room for them."""


class Room:
    """Bytes that several threads share, first come, first served. Every method is thread-safe.

    Args:
        max_bytes: most that all of them hold; what is larger by itself is held alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._condition = threading.Condition()
        self._waiting: deque[object] = deque()
        self._held = 0

    @contextmanager
    def share(self) -> Iterator[Claim]:
        """Yield what claims bytes until the context ends; each claim replaces the one before."""
        own = 0

        def claim(nbytes: int) -> None:
            nonlocal own
            self._give_back(own)  # first: a thread that holds some while it waits may block another
            own = 0
            self._take(nbytes)
            own = nbytes

        try:
            yield claim
        finally:
            self._give_back(own)

    def _take(self, nbytes: int) -> None:
        ticket = object()
        with self._condition:
            self._waiting.append(ticket)
            self._condition.wait_for(lambda: self._waiting[0] is ticket and self._fits(nbytes))
            self._waiting.popleft()
            self._held += nbytes
            self._condition.notify_all()

    def _fits(self, nbytes: int) -> bool:
        return not self._held or self._held + nbytes <= self._max_bytes

    def _give_back(self, nbytes: int) -> None:
        with self._condition:
            self._held -= nbytes
            self._condition.notify_all()


def unbounded(nbytes: int) -> None:
    """Claim without a bound, for callers that read one medium at a time."""

"""`Aside`: does something on a thread of its own while the engine's thread launches a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


class Aside:
    """One thread, which begins with its first work and ends with its owner."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)

    @contextmanager
    def run(self, work: Callable[[], None]) -> Iterator[None]:
        """Work while the body runs; both are over behind it, whichever of them fails.

        What the work reads of MLX must be an array that the body leaves alone.
        """
        future = self._pool.submit(work)
        try:
            yield
        finally:
            future.result()

"""`Aside`: does something on a thread of its own while the engine's thread launches a step."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue

Work = tuple[Callable[[], None], "Future[None]"]


class Aside:
    """One thread, which begins with its first work and ends with its owner.

    No pool of the standard library's: those take no more work once the main thread has ended, and
    an engine still answers other threads then.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._has_begun = False
        weakref.finalize(self, self._queue.put, None).atexit = False

    @contextmanager
    def run(self, work: Callable[[], None]) -> Iterator[None]:
        """Work while the body runs; both are over behind it, whichever of them fails.

        What the work reads of MLX must be an array that the body leaves alone.
        """
        if not self._has_begun:
            thread = threading.Thread(
                target=_work_off, args=(self._queue,), name=self._name, daemon=True
            )
            thread.start()
            self._has_begun = True
        future: Future[None] = Future()
        self._queue.put((work, future))
        try:
            yield
        finally:
            future.result()


def _work_off(queue: SimpleQueue[Work | None]) -> None:
    while order := queue.get():
        work, future = order
        try:
            work()
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)
        del order, work, future  # they hold the owner, which ends this thread

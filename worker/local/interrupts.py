"""`Interrupts`: Ctrl-C as something that a run answers in order, and how it ends then."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from worker.local.run_result import RunResult


class RunInterruptedError(KeyboardInterrupt):
    """Ctrl-C has ended a run, in order: it can be resumed.

    Attributes:
        result: what there is of it.
    """

    result: RunResult | None = None


class Interrupts:
    """Counts each SIGINT in place of raising `KeyboardInterrupt`, while it is entered.

    Only the main thread of a process gets signals: elsewhere there is never one to count.
    """

    def __init__(self) -> None:
        self.count = 0
        self._before: Any = None
        self._listens = False

    def _take(self, _: int, __: FrameType | None) -> None:
        self.count += 1

    def __enter__(self) -> Self:
        before = signal.getsignal(signal.SIGINT)
        is_main = threading.current_thread() is threading.main_thread()
        # One that a shell's `&` ignores stays ignored.
        if is_main and before is not signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._take)
            self._listens = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:
            signal.signal(signal.SIGINT, self._before)

"""`StopSignal`: the signals that end a worker in order."""

from __future__ import annotations

import signal
import time
from types import FrameType


class StopSignal:
    """SIGINT, SIGTERM and SIGHUP: the first one starts the grace, a second one ends it.

    Args:
        grace: seconds that jobs may go on after the first signal.
    """

    def __init__(self, grace: float) -> None:
        self.is_requested = False
        self._grace = grace
        self._stop_at = float("inf")

    def listen(self) -> None:
        """Install the handlers; a SIGHUP that `nohup` has ignored stays ignored."""
        signals = {signal.SIGINT, signal.SIGTERM}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signals.add(signal.SIGHUP)
        for signum in signals:
            signal.signal(signum, self.request)

    def request(self, signum: int, frame: FrameType | None = None) -> None:  # noqa: ARG002
        """Ask for the end."""
        if signum == signal.SIGHUP and self.is_requested:
            return  # kernel and shell both send one when a terminal closes
        self._stop_at = time.monotonic() + (0 if self.is_requested else self._grace)
        self.is_requested = True

    @property
    def grace_is_over(self) -> bool:
        return time.monotonic() >= self._stop_at

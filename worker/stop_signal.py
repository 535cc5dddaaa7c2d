"""`StopSignal`: the signals that end a worker in order."""

from __future__ import annotations

import signal
import time


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
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:
                signal.signal(signum, self.request)

    def request(self, signum: int, *_: object) -> None:
        """Handle a signal; kernel and shell both send SIGHUP, whose second is none."""
        if not self.is_requested:
            self._stop_at = time.monotonic() + self._grace
        elif signum != signal.SIGHUP:
            self._stop_at = time.monotonic()
        self.is_requested = True

    @property
    def grace_is_over(self) -> bool:
        return time.monotonic() >= self._stop_at

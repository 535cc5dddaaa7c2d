"""`mlx-batch`, and `python -m worker.cli`: from here on, Ctrl-C ends with its exit code."""

from __future__ import annotations

import os
import sys
from types import TracebackType

INTERRUPTED = 130  # as `ExitCode` has it, which takes as long to import as all the rest


def _leave(*_: object) -> None:
    os._exit(INTERRUPTED)


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tell of an error that ends the process; Ctrl-C needs no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        _leave()
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _tell  # first: `signal` alone takes as long to import as Python to start

import signal  # noqa: E402


def entry() -> None:
    """Run the command; Ctrl-C while modules are imported, or at the very end, is no traceback."""
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if listens:  # it is ignored in the background of a shell's script
        signal.signal(signal.SIGINT, _leave)
    from worker.cli.app import main

    try:
        if listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
    finally:
        if listens:
            signal.signal(signal.SIGINT, _leave)


if __name__ == "__main__":
    entry()

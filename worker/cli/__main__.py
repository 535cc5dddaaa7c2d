"""`mlx-batch`, and `python -m worker.cli`: from here on, Ctrl-C ends with its exit code."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 130  # as `ExitCode` has it, which takes as long to import as all the rest


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
    except KeyboardInterrupt:  # before `main` took it, or after
        sys.exit(INTERRUPTED)
    finally:
        if listens:
            signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    entry()

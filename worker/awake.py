"""Keeps a Mac from sleeping while a worker works, by the system's own `caffeinate`.

Not tried on a Mac yet: the tests see what would be started.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator


def command(pid: int) -> list[str] | None:
    """Return what prevents sleep while process `pid` lives; None where nothing is needed.

    `-i` is against sleep when idle, `-m` against that of disks, `-w` ends with the process, also if
    it is killed. A lid that is closed still puts a laptop to sleep.
    """
    return ["caffeinate", "-im", "-w", str(pid)] if sys.platform == "darwin" else None


@contextlib.contextmanager
def kept_awake() -> Iterator[None]:
    """Keep the machine awake in the body, if `caffeinate` is there."""
    words = command(os.getpid())
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL) if words else None
    except OSError:
        process = None
    try:
        yield
    finally:
        if process:
            process.terminate()
            process.wait()

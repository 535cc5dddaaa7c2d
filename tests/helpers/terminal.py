"""`Terminal`: a pseudo-terminal with one command in it, which can be closed like a window."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence


class Terminal:
    """The command is the leader of the terminal's session, and what it prints is read.

    Attributes:
        process: the command's.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            command,
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._is_closed = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def close(self) -> None:
        """Close the window: the kernel tells the command by SIGHUP, and no write succeeds."""
        if not self._is_closed.is_set():
            self._is_closed.set()
            self._reader.join()  # a read that waits would keep the terminal open
            os.close(self._master)

    def _read(self) -> None:
        while not self._is_closed.is_set():
            readable, _, _ = select.select([self._master], [], [], 0.05)
            try:
                if readable and not os.read(self._master, 1 << 16):
                    return
            except OSError:  # Linux has this for the end of all that had it open
                return

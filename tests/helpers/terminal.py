"""`Terminal`: a pseudo-terminal with one command in it, which can be closed like a window."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Terminal:
    """The command is the leader of the terminal's session, and what it prints is read.

    Attributes:
        process: the command's, a `subprocess.Popen` or what is asked the same.
        written: all that it has printed.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        size: tuple[int, int] = (24, 80),
        start: Callable[[Any, Any, int], Any] | None = None,
    ) -> None:
        self.written = b""
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.process: Any = (start or _popen)(command, env, slave)
        os.close(slave)
        self._is_closed = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def text(self) -> str:
        """What was printed, each drawing of a line among it, without colors and movements."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.written.decode(errors="replace"))
        return plain.replace("\r", "\n")

    def press(self, key: str) -> None:
        """Send a key; of Ctrl-C the terminal makes a SIGINT."""
        os.write(self._master, key.encode())

    def finish(self, timeout: float = 60) -> int:
        """Wait until the command has ended, and return its exit code."""
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code

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
                chunk = os.read(self._master, 1 << 16) if readable else b""
                self.written += chunk
                if readable and not chunk:
                    return
            except OSError:  # Linux has this for the end of all that had it open
                return


def _popen(command: Any, env: Any, terminal: int) -> Any:
    return subprocess.Popen(
        command,
        env=env,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )

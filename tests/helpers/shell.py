"""`Shell`: real commands in pseudo-terminals, without the second that their imports take.

One process has imported them, and forks itself for each.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.terminal import Terminal

_LEFT_OUT = ("RQ_REDIS_URL", "NO_COLOR", "COLUMNS", "LINES")
_SERVE = "import sys; from tests.helpers.shell import serve; serve(int(sys.argv[1]))"


class Forked:
    """A command's process; what is asked of it is as of `subprocess.Popen`."""

    def __init__(self, said: int) -> None:
        self._said = said
        self.returncode: int | None = None
        self.pid = int(self._line(60))

    def poll(self) -> int | None:
        with contextlib.suppress(TimeoutError):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        if self.returncode is None:
            self.returncode = int(self._line(timeout))
            os.close(self._said)
        return self.returncode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _line(self, timeout: float) -> bytes:
        if not select.select([self._said], [], [], timeout)[0]:
            raise TimeoutError(f"the command has not ended after {timeout} s")
        return os.read(self._said, 100)


class Shell:
    """Starts commands in terminals of 24 lines and 80 columns."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair()
        words = [sys.executable, "-c", _SERVE, str(theirs.fileno())]
        self._process = subprocess.Popen(words, pass_fds=[theirs.fileno()])
        theirs.close()

    def open(self, *words: object, **environment: str) -> Terminal:
        """Start `mlx-batch` with these words."""
        env = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
        env |= {"TERM": "xterm-256color"} | environment
        return Terminal([str(word) for word in words], env, start=self._start)

    def run(self, *words: object, press: str = "", **environment: str) -> tuple[int, str]:
        """Return its exit code and what it has printed, with line ends as in a file.

        Args:
            press: keys, at once.
        """
        terminal = self.open(*words, **environment)
        try:
            terminal.press(press)
            return terminal.finish(), terminal.text.replace("\n\n", "\n")
        finally:
            terminal.process.kill()
            terminal.close()

    def close(self) -> None:
        self._orders.close()
        self._process.wait()

    def _start(self, words: Any, env: Any, terminal: int) -> Forked:
        said, says = os.pipe()
        order = json.dumps({"words": words, "env": env, "folder": str(Path.cwd())}).encode()
        socket.send_fds(self._orders, [order], [terminal, says])
        os.close(says)
        return Forked(said)


def serve(orders: int) -> None:
    """Fork for each order, until there are no more."""
    import pyarrow.dataset  # noqa: F401  (what most of them import later, with pandas)

    import worker.cli.app  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    with socket.socket(fileno=orders) as connection:
        while True:
            raw, (*given,), _, _ = socket.recv_fds(connection, 1 << 20, 2)
            if not raw:
                return
            if os.fork() == 0:
                connection.close()
                _watch(json.loads(raw), *given)
            for descriptor in given:
                os.close(descriptor)


def _watch(order: Any, terminal: int, says: int) -> None:
    """Tell the command's process id, and its exit code when it has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(says)
        _run(order, terminal)
    os.close(terminal)
    os.write(says, str(pid).encode())
    _, status = os.waitpid(pid, 0)
    os.write(says, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(order: Any, terminal: int) -> None:
    from worker.cli.__main__ import entry

    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for descriptor in (0, 1, 2):
        os.dup2(terminal, descriptor)
    os.close(terminal)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(fd, "w", 1, "utf-8", closefd=False) for fd in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["folder"])
    sys.argv = ["mlx-batch", *order["words"]]
    entry()
    sys.exit(0)


@contextlib.contextmanager
def open_shell() -> Iterator[Shell]:
    """A shell that ends with the body."""
    made = Shell()
    try:
        yield made
    finally:
        made.close()

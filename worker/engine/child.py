"""`EngineChild`: one life of an engine's process, as the worker sees it."""

from __future__ import annotations

import codecs
import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from worker.engine.wire import STUCK_CODE, EngineEvent, Order, Setup

END_TIMEOUT = 5.0  # seconds for a process to end by itself
LAST_WORDS = 8  # lines


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended, and the last that it wrote to stderr."""

    code: int
    last_words: str

    def __str__(self) -> str:
        if self.code == STUCK_CODE:
            return "hung and was ended"
        if self.code >= 0:
            return f"ended with code {self.code}"
        try:
            name = signal.Signals(-self.code).name
        except ValueError:
            name = f"signal {-self.code}"
        memory = " (out of memory, perhaps)" if self.code == -signal.SIGKILL else ""
        return f"was killed by {name}{memory}"

    def describe(self, times: int) -> str:
        """Return a sentence for the last of so many deaths."""
        description = f"its process died {times} times in a row; the last one {self}"
        return f"{description}. It ends:\n{self.last_words}" if self.last_words else description


class EngineChild:
    """The process, with a thread that writes to it and one that passes on its logs.

    Only these two threads ever wait for a full pipe.
    """

    def __init__(self, setup: Setup) -> None:
        # -P and our own path: no module is imported from the working directory.
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.engine.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the worker, which ends us in order
        )
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._words = ""
        self._threads = [_started(self._write), _started(self._pass_on_logs)]
        # Media that were being read when it died would stay for ever, up to gigabytes of them.
        self._scratch = tempfile.TemporaryDirectory(
            prefix="mlx-batch-engine-", ignore_cleanup_errors=True
        )
        self.send(replace(setup, scratch=self._scratch.name))

    def send(self, order: Setup | Order) -> None:
        """Queue an order; if the process is dead, it is dropped."""
        self._orders.put(order.encode() + b"\n")

    def events(self) -> Iterator[EngineEvent]:
        """Yield the events of the process, until it ends."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # else it died over it
                yield EngineEvent.decode(line)

    def stop(self, *, at_once: bool = False) -> None:
        """End the process, after the step at hand if that does not take too long."""
        if at_once:
            self._process.kill()
        self.send(Order(stop=True))
        self._end()

    def bury(self) -> Death:
        """Wait for the process after its last event; return how it died."""
        assert self._process.stdout
        self._process.stdout.close()
        code = self._end()
        self._scratch.cleanup()
        lines = self._words.strip().splitlines()[-LAST_WORDS:]
        return Death(code, "\n".join(lines))

    def _end(self) -> int:
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._orders.put(None)
        for thread in self._threads:
            thread.join(END_TIMEOUT)  # not for ever: its own children may hold stderr
        return self._process.returncode

    def _write(self) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            while (order := self._orders.get()) is not None:
                stdin.write(order)
                if self._orders.empty():
                    stdin.flush()

    def _pass_on_logs(self) -> None:
        """Copy stderr as it comes, and not by lines: a progress bar is a single one."""
        stderr: IO[bytes] | None = self._process.stderr
        assert stderr
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with stderr:
            while chunk := os.read(stderr.fileno(), 1 << 16):
                text = decoder.decode(chunk)
                self._words = (self._words + text)[-4096:]
                with contextlib.suppress(OSError, ValueError):  # our own stderr is closed
                    sys.stderr.write(text)
                    sys.stderr.flush()


def _started(target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread

"""`PacedEngine`: answers a prompt with a function of it alone, some at a time, and tells a log.

It runs where the real one does, in the process of a `SupervisedEngine`. The environment says how:
    FAULT_WORKER    whose engine it is
    FAULT_LOG       what it did: a line `SECONDS WORKER PID asked|begun|answered ROW` each
    FAULT_DELAY     seconds that a row takes, on average
    FAULT_ABORT     rows that make the process abort, with commas between
    FAULT_ABORT_ONCE   rows that do so the first time only
"""

from __future__ import annotations

import hashlib
import heapq
import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.helpers.engines import MODEL
from vllm_mlx.batching.request import Request
from vllm_mlx.errors import ContextLengthError
from vllm_mlx.outputs import EngineStats, FinishReason, GenerationOutput
from worker.engine.wire import Setup

Answer = Future[GenerationOutput]
ENGINE = "tests.faults.paced_engine:paced_engine"


def paced_engine(setup: Setup) -> PacedEngine:
    """What the engine's process calls."""
    said = os.environ
    log = EventLog(Path(said["FAULT_LOG"]), said["FAULT_WORKER"])
    abort = Abort(said.get("FAULT_ABORT", ""), said.get("FAULT_ABORT_ONCE", ""), log.path)
    return PacedEngine(setup.config.max_num_seqs or 16, float(said["FAULT_DELAY"]), log, abort)


def number_of(prompt: Any) -> int:
    """A number that follows from the prompt."""
    return int.from_bytes(hashlib.sha256(str(prompt).encode()).digest()[:6])


def answer(prompt: Any) -> GenerationOutput:
    """What a greedy model would say: always the same. Some prompts it can't take."""
    number = number_of(prompt)
    if number % 61 == 0:
        raise ContextLengthError(f"{prompt!r} is too long")
    reason: FinishReason = "length" if number % 2 else "stop"
    return GenerationOutput(f"{number:x} is {prompt}", 3, 1 + number % 7, reason, MODEL)


def row_of(prompt: Any) -> str:
    """`7` of `prompt 7`."""
    return str(prompt).rpartition(" ")[2]


class Abort:
    """Ends the process like a GPU out of memory does, at certain rows."""

    def __init__(self, always: str, once: str, log: Path) -> None:
        self._always = set(always.split(","))
        self._once = set(once.split(","))
        self._log = log

    def __call__(self, prompt: Any) -> None:
        row = row_of(prompt)
        if row in self._always or (row in self._once and self._is_first(row)):
            os.abort()

    def _is_first(self, row: str) -> bool:
        try:
            self._log.with_suffix(f".abort-{row}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class EventLog:
    """A file to which many processes append lines; what was written outlives a kill."""

    def __init__(self, path: Path, worker: str) -> None:
        self.path = path
        self._worker = worker
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def add(self, what: str, *prompts: Any) -> None:
        # Monotonic: the same clock for all processes, and nobody sets it.
        start = f"{time.monotonic():.3f} {self._worker} {os.getpid()} {what}"
        lines = "".join(f"{start} {row_of(prompt)}\n" for prompt in prompts)
        os.write(self._descriptor, lines.encode())


class PacedEngine:
    """In place of `vllm_mlx.batching.core.EngineCore`.

    Args:
        delay: seconds a row takes on average; each takes its own, 0.5 to 1.5 times that.
    """

    def __init__(self, max_num_seqs: int, delay: float, log: EventLog, abort: Abort) -> None:
        self.max_num_seqs = max_num_seqs
        self.stats = EngineStats(slots=max_num_seqs)
        self._delay = delay
        self._log = log
        self._abort = abort
        self._waiting: deque[tuple[Request, Answer]] = deque()
        self._running: list[tuple[float, int, Any, Answer]] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """The process ends, and with it the thread."""

    def submit(self, *requests: Request) -> list[Future[GenerationOutput]]:
        futures: list[Answer] = [Future() for _ in requests]
        self._log.add("asked", *(request.prompt for request in requests))
        with self._changed:
            self._waiting.extend(zip(requests, futures, strict=True))
            self._changed.notify()
        return futures

    def _run(self) -> None:
        for order in range(2**62):
            with self._changed:
                self._changed.wait_for(self._has_work, timeout=self._until_due())
                self._begin(order)
            while self._running and self._running[0][0] <= time.monotonic():
                _, _, prompt, future = heapq.heappop(self._running)
                self._end(prompt, future)

    def _has_work(self) -> bool:
        return bool(self._waiting) and len(self._running) < self.max_num_seqs

    def _until_due(self) -> float | None:
        return max(0.0, self._running[0][0] - time.monotonic()) if self._running else None

    def _begin(self, order: int) -> None:
        while self._has_work():
            request, future = self._waiting.popleft()
            prompt = request.prompt
            if not future.set_running_or_notify_cancel():
                continue
            if request.on_begin:
                request.on_begin()
            self._log.add("begun", prompt)
            takes = self._delay * (0.5 + number_of(prompt) % 1000 / 1000)
            entry = (time.monotonic() + takes, order * 10_000 + len(self._running), prompt, future)
            heapq.heappush(self._running, entry)

    def _end(self, prompt: Any, future: Answer) -> None:
        self._abort(prompt)
        tokens = self.stats.completion_tokens + 2
        self.stats = replace(self.stats, steps=self.stats.steps + 1, completion_tokens=tokens)
        self._log.add("answered", prompt)
        try:
            output = answer(prompt)
        except ContextLengthError as error:
            future.set_exception(error)
        else:
            future.set_result(output)

"""An engine for the process of a `SupervisedEngine` that fails in all ways, when a prompt says so.

As a program it is a worker's process with such an engine, to be stopped and killed from outside:
usage: double_process MODEL PROMPT [COUNT]
"""

from __future__ import annotations

import math
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vllm_mlx.batching.prompts.prompt import MediaPrompt
from vllm_mlx.batching.request import Request
from vllm_mlx.errors import ContextLengthError, EngineStoppedError, ModelLoadError
from vllm_mlx.outputs import EngineStats, GenerationOutput, MediaInfo, TokenLogprob
from vllm_mlx.sampling_params import SamplingParams
from worker.engine.wire import Setup

MAKE = "tests.helpers.double_process:make"
STEP = 0.02  # seconds


class Asked(NamedTuple):
    prompt: Any
    params: SamplingParams
    future: Future[GenerationOutput]
    begin: Callable[[], None]


class FailingEngine:
    """Steps batches of `max_num_seqs` rows; each row is answered after its first step.

    The answer says the prompt and how many rows ran beside it.
    """

    def __init__(self, setup: Setup) -> None:
        self.model = setup.model
        self.max_num_seqs = setup.config.max_num_seqs or 4
        self.stats = EngineStats(slots=self.max_num_seqs)
        self._media = setup.media
        self._inbox: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._held: list[Asked] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        load(self.model)
        self._thread.start()

    def stop(self) -> None:
        self._inbox.put(None)
        self._thread.join()

    def submit(self, *requests: Request) -> list[Future[GenerationOutput]]:
        futures: list[Future[GenerationOutput]] = []
        for request in requests:
            assert request.on_begin
            futures.append(Future())
            asked = Asked(request.prompt, request.params, futures[-1], request.on_begin)
            self._inbox.put(asked)
        return futures

    def _run(self) -> None:
        while batch := self._next_batch():
            for row in batch:
                row.begin()
            time.sleep(STEP)
            for row in batch:
                self._answer(row, len(batch) - 1)

    def _next_batch(self) -> list[Asked]:
        while True:
            batch: list[Asked] = []
            try:
                while len(batch) < self.max_num_seqs:
                    row = self._inbox.get(timeout=0 if batch else STEP)
                    if row is None:
                        return []
                    if not row.future.done():
                        batch.append(row)
            except queue.Empty:
                pass
            self._held = [row for row in self._held if not row.future.done()]
            self.stats = replace(self.stats, running=len(self._held) + len(batch))
            if batch:
                return batch

    def _answer(self, row: Asked, others: int) -> None:
        act = str(row.prompt).split()[0]
        if act == "hold":
            self._held.append(row)
        elif act == "abort":
            print("a last word", file=sys.stderr, flush=True)
            os.abort()
        elif act == "once":
            if not is_done_before(Path(str(row.prompt).split()[1])):
                os.kill(os.getpid(), signal.SIGKILL)
        elif act == "leave":
            tempfile.mkdtemp(prefix="left-")
            os.abort()
        elif act == "scratch":
            row.future.set_result(GenerationOutput(tempfile.gettempdir()))
        elif act == "sleep":
            time.sleep(1000)
        elif act == "end":
            row.future.set_exception(EngineStoppedError("by itself"))
        if act == "long":
            row.future.set_exception(ContextLengthError("the prompt is too long \ud800"))
        elif not row.future.done() and act not in ("hold", "end"):
            row.future.set_result(self._output(row, others))

    def _output(self, row: Asked, others: int) -> GenerationOutput:
        counts = self.stats
        self.stats = replace(
            counts,
            steps=counts.steps + 1,
            completion_tokens=counts.completion_tokens + row.params.max_tokens,
        )
        output = GenerationOutput(
            f"{row.prompt!r} and {others} others",
            3,
            row.params.max_tokens,
            "stop",
            self.model,
            seed=row.params.seed,
        )
        if row.prompt == "print":
            print("printed", flush=True)
        if row.prompt == "nan":
            return replace(output, logprobs=(TokenLogprob(1, "a", math.nan),))
        if row.prompt == "big":
            return replace(output, text="x" * 1_000_000)
        if isinstance(row.prompt, MediaPrompt):
            seen = MediaInfo("image", str(self._media.allowed_paths), 1, 2)
            return replace(output, media=(seen,))
        return output


def load(model: str) -> None:
    """What goes wrong while a model is loaded."""
    what, *words = model.split()
    if what == "missing":
        raise ModelLoadError("there is no such model")
    if what == "broken":
        raise ZeroDivisionError("in the weights")
    if what == "dies":  # the first so many times
        times, folder = int(words[0]), Path(words[1])
        if len(list(folder.iterdir())) < times:
            (folder / str(os.getpid())).touch()
            print("no memory for the weights", file=sys.stderr, flush=True)
            os.abort()
    if what == "slow":
        time.sleep(1000)


def is_done_before(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


def make(setup: Setup) -> FailingEngine:
    return FailingEngine(setup)


def make_impatient(setup: Setup) -> FailingEngine:
    """Its process takes it for stuck after a second."""
    vars(sys.modules["__main__"])["STUCK"] = 1.0
    return FailingEngine(setup)


def main(model: str, prompt: str, count: str = "1") -> None:
    from worker.engine.supervisor import SupervisedEngine  # too slow for each of many engines

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine = SupervisedEngine(model, make=MAKE)
    engine.start()
    futures = engine.submit(*(Request(prompt, SamplingParams.of()) for _ in range(int(count))))
    print("asked", flush=True)
    print(sum(len(future.result().text) for future in futures), flush=True)
    engine.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])

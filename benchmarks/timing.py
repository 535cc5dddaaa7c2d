"""`Run`: how long one engine took for a workload once, what it held, and how its steps went."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx

from vllm_mlx.outputs import EngineStats


class Sample(NamedTuple):
    """One step of many.

    Attributes:
        after: seconds since the sample before.
        step: seconds that it took.
        rows: that got a token.
        reserved: bytes of the engine's caches.
        lengths: tokens of each of the rows.
    """

    after: float
    step: float
    rows: int
    reserved: int
    lengths: list[int]


@dataclass
class Run:
    """One run of one engine.

    Attributes:
        seconds: wall time, from the first prompt taken in to the last token read.
        cpu_seconds: processor time of the process meanwhile: others on the machine don't count.
        peak_bytes: most memory that MLX held at once, the weights included.
        tokens: output tokens; fewer than the workload's where the run was cut off.
        width: `max_num_seqs` of our engine.
        start_seconds: of these, until our engine could take prompts in.
        runner: what stepped the model in our engine.
        stats: our engine's counters at the end, and of the peer's as many as it has.
        rows: of each step of our engine.
        samples: of them some.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    tokens: int = 0
    width: int = 0
    start_seconds: float = 0.0
    runner: str = ""
    stats: EngineStats = field(default_factory=EngineStats)
    rows: list[int] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


@contextmanager
def measured() -> Iterator[Run]:
    """Fills a `Run` in; what the run before left behind is freed first, off the clock."""
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    run = Run()
    started, cpu_started = time.perf_counter(), time.process_time()
    yield run
    run.seconds = time.perf_counter() - started
    run.cpu_seconds = time.process_time() - cpu_started
    run.peak_bytes = mx.get_peak_memory()

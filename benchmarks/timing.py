"""`Run`: how long one engine took for a workload once, and what it held."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlx.core as mx

from vllm_mlx.outputs import EngineStats


@dataclass
class Run:
    """One run of one engine.

    Attributes:
        seconds: wall time, from the first prompt taken in to the last token read.
        peak_bytes: most memory that MLX held at once, the weights included.
        width: `max_num_seqs` of our engine.
        stats: our engine's counters at the end.
    """

    seconds: float = 0.0
    peak_bytes: int = 0
    width: int = 0
    stats: EngineStats = field(default_factory=EngineStats)


@contextmanager
def measured() -> Iterator[Run]:
    """Fills a `Run` in; what the run before left behind is freed first, off the clock."""
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    run = Run()
    started = time.perf_counter()
    yield run
    run.seconds = time.perf_counter() - started
    run.peak_bytes = mx.get_peak_memory()

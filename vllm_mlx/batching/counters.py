"""`Counters`: what an engine has done, counted where it happens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from vllm_mlx.outputs import EngineStats


@dataclass(slots=True)
class Counters:
    """The counts of `EngineStats` while they grow; one thread writes them."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    padding_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    schedule_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    deliver_seconds: float = 0.0

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to `part` (`"schedule"`, `"prefill"`, …)."""
        name = f"{part}_seconds"
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - started)

    def stats(self, **now: int) -> EngineStats:
        """The counts so far with what the engine holds `now`."""
        counts = {each.name: getattr(self, each.name) for each in fields(self)}
        return EngineStats(**counts, **now)

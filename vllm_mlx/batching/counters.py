"""`Counters`: what an engine has done, counted where it happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from vllm_mlx.outputs import EngineStats


@dataclass(slots=True)
class Counters:
    """The counts of `EngineStats` while they grow; one thread writes them, any may read."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    padding_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    schedule_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    deliver_seconds: float = 0.0
    _open: tuple[str, float] | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to `part` (`"schedule"`, `"prefill"`, …).

        Blocks follow each other and do not nest.
        """
        name = f"{part}_seconds"
        started = time.perf_counter()
        self._open = name, started
        try:
            yield
        finally:
            with self._lock:  # or a reader counts the block twice, or not at all
                setattr(self, name, getattr(self, name) + time.perf_counter() - started)
                self._open = None

    def stats(self, **now: Any) -> EngineStats:
        """Return the counts so far, with the block at hand and what the engine holds `now`."""
        with self._lock:
            names = [each.name for each in fields(self) if each.init]
            counts = {name: getattr(self, name) for name in names}
            if self._open:
                name, started = self._open
                counts[name] += time.perf_counter() - started
        return EngineStats(**counts, **now)

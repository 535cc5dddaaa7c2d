"""`LiveCounts`: publishes the state of an engine in the ledger, every second."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

from jobs.ledger import Ledger
from vllm_mlx.outputs import EngineStats
from worker.statistics import Meter, Statistics

SPEED_OVER = 1.0  # seconds, at least, that speeds and shares are taken over


class LiveCounts:
    """Publishes what the engine does."""

    def __init__(self, ledger: Ledger, worker: str, model: str) -> None:
        self._ledger = ledger
        self._worker = worker
        self._model = model
        self._tokens = 0
        self._at = time.monotonic()
        self._per_second = 0.0
        self._meter = Meter()
        self._statistics = Statistics()

    def publish(self, stats: EngineStats) -> None:
        """Write the counts of now; they expire when they are not renewed."""
        self._measure(stats)
        live = {"model": self._model, "tokens_per_second": round(self._per_second, 1)}
        now = replace(
            self._statistics,
            running=stats.running,
            waiting=stats.waiting,
            slots=stats.slots,
            kv_cache_bytes=stats.kv_cache_bytes,
        )
        self._ledger.publish_live(self._worker, live | asdict(now))

    def withdraw(self) -> None:
        """Remove what was published: the worker ends."""
        self._ledger.forget_live(self._worker)

    def _measure(self, stats: EngineStats) -> None:
        """Measure speeds and shares anew, but at most once a second, and only after a step."""
        now = time.monotonic()
        if self._per_second and now - self._at < SPEED_OVER:
            return
        statistics = self._meter.read(stats)
        if statistics.is_within_step and self._statistics.has_speed:
            return
        self._statistics = statistics
        if not statistics.is_within_step:
            self._per_second = (stats.completion_tokens - self._tokens) / (now - self._at)
            self._tokens, self._at = stats.completion_tokens, now

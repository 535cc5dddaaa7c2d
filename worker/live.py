"""`LiveCounts`: what a worker tells the ledger every second, beyond what is committed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from jobs.ledger import Counts, Ledger
from vllm_mlx.outputs import EngineStats
from worker.flight import Flight, ShardFlight

SPEED_OVER = 1.0  # seconds, at least, that tokens per second are counted over


class LiveCounts:
    """Publishes the answered rows of unfinished shards and the engine's speed."""

    def __init__(self, ledger: Ledger, worker: str, model: str) -> None:
        self._ledger = ledger
        self._worker = worker
        self._model = model
        self._tokens = 0
        self._at = time.monotonic()
        self._per_second = 0.0

    def publish(self, flights: Iterable[Flight], stats: EngineStats) -> None:
        """Write the counts of now; they expire when they are not renewed."""
        runs: defaultdict[str, Counts] = defaultdict(Counts)
        for flight in flights:
            if isinstance(flight, ShardFlight):
                runs[flight.spec.run_id] += flight.counts()
        live: dict[str, Any] = {
            "model": self._model,
            "runs": {run_id: asdict(counts) for run_id, counts in runs.items()},
            "running": stats.running,
            "waiting": stats.waiting,
            "tokens_per_second": round(self._speed(stats.completion_tokens), 1),
        }
        self._ledger.publish_live(self._worker, live)

    def _speed(self, tokens: int) -> float:
        now = time.monotonic()
        if not self._per_second or now - self._at >= SPEED_OVER:
            self._per_second = (tokens - self._tokens) / (now - self._at)
            self._tokens, self._at = tokens, now
        return self._per_second

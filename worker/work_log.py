"""`WorkLog`: the lines that a worker logs of itself: what it serves, and what its engine does."""

from __future__ import annotations

import logging

from jobs.wording import counted
from vllm_mlx.outputs import EngineStats
from worker.engine.text_engine import TextEngine
from worker.status.statistics import Meter, Statistics

logger = logging.getLogger("mlx_batch.worker")


class WorkLog:
    """Logs what a worker does; of an engine that did nothing there is no line."""

    def __init__(self, engine: TextEngine) -> None:
        self._engine = engine
        self._meter = Meter()

    def loading(self, model: str) -> None:
        logger.info("loading %s", model)

    def ready(self, model: str, queue: str, waiting: int) -> None:
        """Log how the model runs, and what waits for it."""
        way = self._engine.stats.way
        logger.info("%s is loaded%s", model, f" and runs {way}" if way else "")
        jobs = f"{counted(waiting, 'job')} wait{'s' * (waiting == 1)}"
        logger.info("listening on the queue %s, where %s", queue, jobs)

    def recent(self) -> None:
        """Log what the engine did since the last call."""
        self._log("%s", self._meter.read(self._engine.stats))

    def total(self) -> None:
        """Log what the engine did since its start."""
        self._log("in all: %s", Statistics.between(EngineStats(), self._engine.stats))

    def _log(self, message: str, statistics: Statistics) -> None:
        if not statistics.is_idle:
            logger.info(message, statistics)

"""`RedisPatience`: lets a worker's loop outlast a Redis that fails for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from jobs.connection import is_passing

logger = logging.getLogger("mlx_batch.worker")


class RedisPatience:
    """Waits while Redis is away, full or frozen; `is_over` once that took more than `timeout` s."""

    def __init__(self, timeout: float) -> None:
        self.is_over = False
        self._timeout = timeout
        self._lost_at: float | None = None

    @contextmanager
    def one_turn(self) -> Iterator[None]:
        """Swallow an error of the body that passes, after a pause, until patience is over."""
        began = time.monotonic()
        try:
            yield
            self._lost_at = None
        except RedisError as error:
            if not is_passing(error):
                raise
            self._lost_at = self._lost_at or began  # a frozen server takes its time to fail
            away = time.monotonic() - self._lost_at
            self.is_over = away > self._timeout
            if self.is_over:
                raise
            logger.warning("Redis fails for %.0f s, the engine goes on: %s", away, error)
            time.sleep(min(5.0, 0.5 + away / 4, self._timeout - away))

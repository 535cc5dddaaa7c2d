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
    """Waits while Redis is away, full or frozen.

    Args:
        timeout: seconds after which the error of a Redis that still fails is raised.

    Attributes:
        is_over: whether the timeout has passed.
    """

    def __init__(self, timeout: float) -> None:
        self.is_over = False
        self._timeout = timeout
        self._lost_at: float | None = None

    @contextmanager
    def one_turn(self) -> Iterator[None]:
        """Swallow a passing error of the body, after a pause.

        Raises:
            RedisError: the error does not pass, or the timeout is over.
        """
        began = time.monotonic()
        try:
            yield
        except RedisError as error:
            if not is_passing(error):
                raise
            self._lost_at = self._lost_at or began  # a frozen server takes its time to fail
            self._wait(error, time.monotonic() - self._lost_at)
        else:
            self._lost_at = None

    def _wait(self, error: RedisError, away: float) -> None:
        if away > self._timeout:
            self.is_over = True
            raise error
        logger.warning("Redis fails for %.0f s, the engine goes on: %s", away, error)
        time.sleep(min(5.0, 0.5 + away / 4, self._timeout - away))

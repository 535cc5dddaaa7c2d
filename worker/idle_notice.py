"""`IdleNotice`: logs for which other models jobs wait while a worker is idle."""

from __future__ import annotations

import logging

from redis import Redis

from jobs.queue.queue_state import queue_names
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import QUEUE_PREFIX, queue_name

logger = logging.getLogger("mlx_batch.worker")


class IdleNotice:
    """Logs which queues of mlx-batch have jobs, each time that changes."""

    def __init__(self, connection: Redis, model: str) -> None:
        self._connection = connection
        self._model = model
        self._logged = ""

    def log(self) -> None:
        """Look at the other queues, and log a line if it is another than the last."""
        others = [
            (name.removeprefix(QUEUE_PREFIX), open_queue(self._connection, name).count)
            for name in queue_names(self._connection)
            if name.startswith(QUEUE_PREFIX) and name != queue_name(self._model)
        ]
        waiting = ", ".join(f"{name} ({count})" for name, count in others if count)
        if waiting and waiting != self._logged:
            logger.warning("no jobs for %s; jobs wait for: %s", self._model, waiting)
        self._logged = waiting

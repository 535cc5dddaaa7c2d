"""`Halts`: which runs a worker begins no more rows of, those among them that it halts itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from redis import Redis

from jobs.ledger import Halt, Halting, HaltReason, Stretch

logger = logging.getLogger("mlx_batch.worker")


class Halts:
    """Looks at the ledger, and halts runs that have reached a bound."""

    def __init__(self, connection: Redis) -> None:
        self._halting = Halting(connection)

    def among(self, run_ids: Iterable[str]) -> set[str]:
        """Return which of these runs are halted."""
        ordered = sorted(set(run_ids))
        looks = zip(ordered, self._halting.look(*ordered), strict=True)
        return {
            run_id
            for run_id, (is_halted, stretch) in looks
            if is_halted or self.halt_if_due(run_id, stretch)
        }

    def begin(self, run_id: str) -> bool:
        """Return whether rows of a run may begin; the first that do start its `max_time`."""
        ((is_halted, stretch),) = self._halting.look(run_id)
        if is_halted or self.halt_if_due(run_id, stretch):
            return False
        if stretch.is_to_be_timed:
            self._halting.note_beginning(run_id, time.time())
        return True

    def halt_if_due(self, run_id: str, stretch: Stretch, error: str | None = None) -> bool:
        """Halt a run that has reached a bound.

        Args:
            error: one of its errors, as an example.
        """
        if (halt := stretch.end()) is None:
            return False
        if halt.reason is HaltReason.MAX_ERRORS and error:
            halt = Halt(halt.reason, f"{halt.message}, such as: {error}")
        if self._halting.halt(run_id, halt):
            logger.warning("%s is %s; `mlx-batch continue %s` goes on", run_id, halt, run_id)
        return True

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

    def among(self, run_ids: Iterable[str]) -> dict[str, Halt]:
        """Return why those of these runs that are halted are."""
        ordered = sorted(set(run_ids))
        looks = zip(ordered, self._halting.look(*ordered), strict=True)
        halts = {run_id: self._halt(run_id, *look) for run_id, look in looks}
        return {run_id: halt for run_id, halt in halts.items() if halt}

    def begin(self, run_id: str) -> Halt | None:
        """Return why rows of a run may not begin; the first that may start its `max_time`."""
        ((known, stretch),) = self._halting.look(run_id)
        halt = self._halt(run_id, known, stretch)
        if stretch.is_to_be_timed and (halt is None or halt.first_rows):
            self._halting.note_beginning(run_id, time.time())
        return halt

    def _halt(self, run_id: str, known: Halt | None, stretch: Stretch) -> Halt | None:
        if known and not known.first_rows:
            return known
        return self.halt_if_due(run_id, stretch) or known

    def halt_if_due(self, run_id: str, stretch: Stretch, error: str | None = None) -> Halt | None:
        """Halt a run that has reached a bound; returns by which.

        Args:
            error: one of its errors, as an example.
        """
        if (halt := stretch.end()) is None:
            return None
        if halt.reason is HaltReason.MAX_ERRORS and error:
            halt = Halt(halt.reason, f"{halt.message}, such as: {error}")
        if self._halting.halt(run_id, halt):
            logger.warning("%s is %s; `mlx-batch continue %s` goes on", run_id, halt, run_id)
        return halt

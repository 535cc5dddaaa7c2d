"""`Sharing`: what of a queue a worker leaves to the others, and what it hands over to them.

A worker holds more rows than run, so that no place of its batch stays empty. What it holds and has
not begun is of more use to a worker that has nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from redis import Redis

from jobs.queue.queue_state import QueueState
from jobs.queue.run_jobs import open_queue
from vllm_mlx.scheduler_config import WINDOW
from worker.status.live import Live
from worker.status.phase import Phase
from worker.status.serving import workers_of
from worker.timer import Timer

# Rows held, in batches: one runs, one waits so that no slot stays empty. More only as long as no
# other worker goes short of them: the engine orders the rows of a whole window, and fills it.
LOOKAHEAD = 2
FULL_WINDOW = 1 + WINDOW
LOOK = 0.2  # seconds between two looks


class Sharing:
    """One worker among those of its queue, as the latest look found them.

    Args:
        name: the worker's.

    Attributes:
        timer: when the next look is due.
    """

    def __init__(self, connection: Redis, queue: str, name: str) -> None:
        self._redis = connection
        self._queue = queue
        self._name = name
        self._held = self._waiting = self._open = self._workers = 0
        self.timer = Timer(LOOK)
        self._others: Mapping[str, Live] = {}

    def look(self, held: int) -> None:
        """Look what waits, has begun, and is held by others; seldom, as every look asks Redis.

        Args:
            held: jobs in hand.
        """
        if not self.timer.is_due:
            return
        self.timer.restart()
        self._held = held
        queue = QueueState(open_queue(self._redis, self._queue))
        self._waiting, begun, self._workers = queue.load()
        self._open = self._waiting + begun
        self._others = {}
        if self._workers > 1:
            there = workers_of(self._redis, self._queue)
            self._others = {name: said for name, said in there.items() if name != self._name}

    def wants(self, held: int, batches: float) -> bool:
        """Return whether to take one more job.

        Args:
            held: jobs in hand.
            batches: their rows, in batches of the engine.
        """
        waiting = self._waiting - max(0, held - self._held)
        if batches < LOOKAHEAD:
            return held < self._share or not any(map(_goes_short, self._others.values()))
        # Whether every other worker could take as many jobs as are held here.
        enough = waiting > 0 and waiting >= (self._workers - 1) * held
        return batches < FULL_WINDOW and enough

    def surplus(self, held: int) -> int:
        """Return how many of the jobs in hand to hand over, as another worker has none."""
        has_idle = any(_is_idle(said) for said in self._others.values())
        return max(0, held - self._share) if has_idle and not self._waiting else 0

    @property
    def _share(self) -> int:
        ready = [said for said in self._others.values() if said.phase is not Phase.LOADING]
        return -(-self._open // (1 + len(ready)))


def _is_idle(said: Live) -> bool:
    return said.phase is Phase.IDLE and not said.jobs


def _goes_short(said: Live) -> bool:
    """Whether places of its batch are empty."""
    rows = said.running + said.waiting
    return _is_idle(said) or (said.phase is not Phase.LOADING and rows < said.max_num_seqs)

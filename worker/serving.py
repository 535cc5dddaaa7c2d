"""Which models the workers of a server serve, as far as these tell."""

from __future__ import annotations

from collections import Counter

from redis import Redis

from jobs.queue.queue_state import QueueState, queue_names
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import QUEUE_PREFIX
from worker.live import Live


def workers_of(connection: Redis, queue: str) -> dict[str, Live]:
    """Return the live workers of a queue, by name; those that load their model among them."""
    return Live.of_queue(connection, queue, QueueState(open_queue(connection, queue)).workers)


def served_models(connection: Redis) -> dict[str, int]:
    """Return how many workers serve each model."""
    queues = [name for name in queue_names(connection) if name.startswith(QUEUE_PREFIX)]
    found = [said.model for name in queues for said in workers_of(connection, name).values()]
    return dict(sorted(Counter(filter(None, found)).items()))

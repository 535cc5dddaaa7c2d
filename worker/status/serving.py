"""Which models the workers of a server serve, and where they write, as far as these tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from redis import Redis

from jobs.queue.queue_state import QueueState, queue_names
from jobs.queue.run_jobs import open_queue
from jobs.run_spec import QUEUE_PREFIX, RunSpec
from worker.output_root import is_below
from worker.status.live import Live


def workers_of(connection: Redis, queue: str) -> dict[str, Live]:
    """Return the live workers of a queue, by name; those that load their model among them."""
    return Live.of_queue(connection, queue, QueueState(open_queue(connection, queue)).workers)


def served_models(connection: Redis) -> dict[str, int]:
    """Return how many workers serve each model."""
    queues = [name for name in queue_names(connection) if name.startswith(QUEUE_PREFIX)]
    found = [said.model for name in queues for said in workers_of(connection, name).values()]
    return dict(sorted(Counter(filter(None, found)).items()))


def told(served: Mapping[str, int]) -> str:
    """Return which models are served, as words."""
    if not served:
        return "no worker is there"
    return "served: " + ", ".join(f"{model} ({count})" for model, count in served.items())


def obstacles(connection: Redis, spec: RunSpec) -> list[str]:
    """Return what keeps a run from being worked on, with the workers that are there now."""
    workers = workers_of(connection, spec.queue)
    if not workers:
        models = told(served_models(connection))
        return [f"no worker listens for {spec.model}, so its jobs wait until one does; {models}"]
    roots: dict[str, list[str]] = {}
    for name, said in workers.items():
        if said.output_root and not is_below(spec.out, Path(said.output_root)):
            roots.setdefault(said.output_root, []).append(name)
    return [
        f"{spec.out} is not below {root}, the --output-root of the workers {', '.join(names)}: "
        "they will refuse the jobs"
        for root, names in roots.items()
    ]

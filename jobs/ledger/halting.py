"""`Halting`: which runs are halted, and what bounds the others, in Redis."""

from __future__ import annotations

from redis import Redis
from redis.client import Pipeline

from jobs.ledger.halt import Halt
from jobs.ledger.keys import HALTED, explain_damage, run_key, stretch_key
from jobs.ledger.stretch import Stretch
from jobs.run_spec import RunSpec


class Halting:
    """Reads and writes what halts runs."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection

    def halt(self, run_id: str, halt: Halt) -> bool:
        """Let workers begin no more rows of a run; return False if it is halted already."""
        return bool(self._redis.hsetnx(run_key(run_id), HALTED, halt.encode()))

    def look(self, *run_ids: str) -> list[tuple[bool, Stretch]]:
        """Return of each of these runs whether it is halted, and its stretch.

        Raises:
            LedgerError: a record of one is not what this version writes.
        """
        with self._redis.pipeline() as pipeline:
            for run_id in run_ids:
                pipeline.hexists(run_key(run_id), HALTED)
                pipeline.hgetall(stretch_key(run_id))
            with explain_damage(", ".join(run_ids)):
                found = pipeline.execute() if run_ids else []
        pairs = zip(found[::2], found[1::2], strict=True)
        return [(bool(halted), Stretch.read(stretch)) for halted, stretch in pairs]

    def note_beginning(self, run_id: str, now: float) -> None:
        """Note that a worker begins the first job of a stretch."""
        self._redis.hsetnx(stretch_key(run_id), "began", str(now))

    def take_up(self, spec: RunSpec) -> bool:
        """Let workers begin rows of a run again, a stretch with these bounds but for a preview.

        Returns:
            Whether it was halted.
        """
        bounds = spec.bounds.model_copy(update={"preview": None})
        spec = spec.model_copy(update={"bounds": bounds})
        run, stretch = run_key(spec.run_id), stretch_key(spec.run_id)
        with self._redis.pipeline() as pipeline:
            pipeline.hset(run, "spec", spec.model_dump_json())
            pipeline.delete(stretch)
            pipeline.hset(stretch, mapping=Stretch.fields(spec))
            pipeline.hdel(run, HALTED)
            return bool(pipeline.execute()[-1])


def begin_stretch(pipeline: Pipeline, spec: RunSpec) -> None:
    """Begin the first stretch of a run, unless it has begun."""
    for name, value in Stretch.fields(spec).items():
        pipeline.hsetnx(stretch_key(spec.run_id), name, value)

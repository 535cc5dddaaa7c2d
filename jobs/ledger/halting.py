"""`Halting`: which runs are halted, and what bounds the others, in Redis."""

from __future__ import annotations

from redis import Redis
from redis.client import Pipeline

from jobs.ledger.halt import Halt, HaltReason
from jobs.ledger.keys import HALTED, done_key, explain_damage, rows_key, run_key, stretch_key
from jobs.ledger.stretch import Stretch
from jobs.run_spec import RunSpec

_HALT = f"""
local known = redis.call('HGET', KEYS[1], '{HALTED}')
if known and cjson.decode(known).reason ~= '{HaltReason.PREVIEW}' then return 0 end
redis.call('HSET', KEYS[1], '{HALTED}', ARGV[1])
return 1
"""


class Halting:
    """Reads and writes what halts runs."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection

    def halt(self, run_id: str, halt: Halt) -> bool:
        """Let workers begin no more rows of a run, those of a preview neither.

        Returns:
            False if it is halted already.
        """
        script = self._redis.register_script(_HALT)
        return bool(script(keys=[run_key(run_id)], args=[halt.encode()]))

    def look(self, *run_ids: str) -> list[tuple[Halt | None, Stretch]]:
        """Return of each of these runs why it is halted, if it is, and its stretch.

        Raises:
            LedgerError: a record of one is not what this version writes.
        """
        with self._redis.pipeline() as pipeline:
            for run_id in run_ids:
                pipeline.hget(run_key(run_id), HALTED)
                pipeline.hgetall(stretch_key(run_id))
            with explain_damage(", ".join(run_ids)):
                found = pipeline.execute() if run_ids else []
        pairs = zip(found[::2], found[1::2], strict=True)
        return [(Halt.read(halted), Stretch.read(stretch)) for halted, stretch in pairs]

    def note_beginning(self, run_id: str, now: float) -> None:
        """Note that a worker begins the first job of a stretch."""
        self._redis.hsetnx(stretch_key(run_id), "began", str(now))

    def take_up(self, spec: RunSpec) -> bool:
        """Let workers begin rows of a run again, a stretch with these bounds.

        Returns:
            Whether it was halted.
        """
        run, stretch = run_key(spec.run_id), stretch_key(spec.run_id)
        with self._redis.pipeline() as pipeline:
            pipeline.hset(run, "spec", spec.model_dump_json())
            pipeline.delete(stretch)
            pipeline.hset(stretch, mapping=Stretch.fields(spec))
            pipeline.hdel(run, HALTED)
            if halt := Halt.for_preview(spec):
                pipeline.hset(run, HALTED, halt.encode())
            return bool(pipeline.execute()[3])

    def is_previewed(self, spec: RunSpec) -> bool:
        """Whether all rows of a run's preview are recorded."""
        shards = range(-(-spec.preview_rows // spec.shard_size))
        with self._redis.pipeline() as pipeline:
            for shard in shards:
                pipeline.hexists(done_key(spec.run_id), str(shard))
                pipeline.hkeys(rows_key(spec.run_id, shard))
            found = pipeline.execute() if shards else []
        for shard, is_done, places in zip(shards, found[::2], found[1::2], strict=True):
            rows = spec.shard_rows(shard)
            wanted = range(min(len(rows), spec.preview_rows - rows.start))
            if not is_done and not {b"%d" % place for place in wanted}.issubset(places):
                return False
        return True


def begin_stretch(pipeline: Pipeline, spec: RunSpec) -> None:
    """Begin the first stretch of a run, unless it has begun."""
    for name, value in Stretch.fields(spec).items():
        pipeline.hsetnx(stretch_key(spec.run_id), name, value)

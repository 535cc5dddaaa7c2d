"""`Ledger`: what is done of each run, in Redis; the one truth of a run in flight.

Keys, all under `mlx-batch:`
    runs                    sorted set, run id by creation time
    run:ID                  hash: `spec` (JSON), `state`, and the counts of `Counts`
    run:ID:done             bitmap of committed shards
    live:WORKER             JSON of what a worker holds that is not committed yet; expires
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, cast

from redis import Redis

from jobs.errors import RunNotFoundError
from jobs.run import RunSpec
from vllm_mlx.outputs import GenerationOutput

PREFIX = "mlx-batch"
LIVE_TTL = 15  # seconds; a worker writes its live counts every second
KEEP_FINISHED = 30 * 24 * 3600  # seconds the record of a finished run stays


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows and tokens that are done."""

    ok: int = 0
    error: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, outputs: Iterable[GenerationOutput]) -> Counts:
        outputs = list(outputs)
        errors = sum(output.finish_reason == "error" for output in outputs)
        return cls(
            ok=len(outputs) - errors,
            error=errors,
            prompt_tokens=sum(output.prompt_tokens for output in outputs),
            completion_tokens=sum(output.completion_tokens for output in outputs),
        )

    @property
    def rows(self) -> int:
        return self.ok + self.error

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Progress:
    """A run as the ledger knows it: what was asked for, what is committed."""

    spec: RunSpec
    state: RunState
    done: Counts
    shards_done: int


# One script: a shard counts once, however often its commit is repeated.
_COMMIT = """
if redis.call('SETBIT', KEYS[2], ARGV[1], 1) == 1 then return 0 end
for i = 2, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
"""


class Ledger:
    """Reads and writes the records of runs."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection
        self._commit = connection.register_script(_COMMIT)

    def create(self, spec: RunSpec, created: float) -> bool:
        """Record a new run; False if it is there already (it is then left as it was)."""
        key = _run(spec.run_id)
        if not self._redis.hsetnx(key, "spec", spec.model_dump_json()):
            return False
        self._redis.hset(key, "state", RunState.RUNNING)
        self._redis.zadd(f"{PREFIX}:runs", {spec.run_id: created})
        return True

    def spec(self, run_id: str) -> RunSpec:
        """What a run is.

        Raises:
            RunNotFoundError: the server knows no such run.
        """
        raw = self._redis.hget(_run(run_id), "spec")
        if raw is None:
            raise RunNotFoundError(f"no run {run_id!r} on this server")
        return RunSpec.model_validate_json(cast(bytes, raw))

    def progress(self, run_id: str) -> Progress:
        """How far a run is.

        Raises:
            RunNotFoundError: the server knows no such run.
        """
        with self._redis.pipeline() as pipeline:
            pipeline.hgetall(_run(run_id))
            pipeline.bitcount(_done(run_id))
            record, shards_done = pipeline.execute()
        if b"spec" not in record:
            raise RunNotFoundError(f"no run {run_id!r} on this server")
        return Progress(
            spec=RunSpec.model_validate_json(record[b"spec"]),
            state=RunState(record.get(b"state", b"running").decode()),
            done=Counts(**{f.name: int(record.get(f.name.encode(), 0)) for f in fields(Counts)}),
            shards_done=shards_done,
        )

    def runs(self) -> list[str]:
        """All run ids, newest first, but for those whose record has expired."""
        names = cast(list[bytes], self._redis.zrevrange(f"{PREFIX}:runs", 0, -1))
        with self._redis.pipeline() as pipeline:
            for name in names:
                pipeline.exists(_run(name.decode()))
            known = pipeline.execute() if names else []
        return [name.decode() for name, exists in zip(names, known, strict=True) if exists]

    def commit_shard(self, run_id: str, shard: int, counts: Counts) -> bool:
        """Record a shard whose part is on disk; False if it was recorded before."""
        flat = [item for pair in asdict(counts).items() for item in pair]
        return bool(self._commit(keys=[_run(run_id), _done(run_id)], args=[shard, *flat]))

    def is_done(self, run_id: str, shard: int) -> bool:
        """Whether a shard's part is committed."""
        return bool(self._redis.getbit(_done(run_id), shard))

    def done_shards(self, run_id: str) -> set[int]:
        """The committed shards."""
        bits = cast(bytes | None, self._redis.get(_done(run_id))) or b""
        return {
            8 * at + bit for at, byte in enumerate(bits) for bit in range(8) if byte << bit & 128
        }

    def shards_done(self, run_id: str) -> int:
        """How many shards are committed."""
        return self._redis.bitcount(_done(run_id))

    def finish(self, run_id: str) -> None:
        """The run's dataset is verified; its record is forgotten after `KEEP_FINISHED`."""
        with self._redis.pipeline() as pipeline:
            pipeline.hset(_run(run_id), "state", RunState.FINISHED)
            for key in (_run(run_id), _done(run_id)):
                pipeline.expire(key, KEEP_FINISHED)
            pipeline.execute()

    def forget(self, run_id: str) -> None:
        """Remove a run's record."""
        self._redis.delete(_run(run_id), _done(run_id))
        self._redis.zrem(f"{PREFIX}:runs", run_id)

    def publish_live(self, worker: str, live: Mapping[str, Any]) -> None:
        """What a worker holds beyond the ledger: `{"runs": {id: counts}, ...}`."""
        self._redis.set(_live(worker), json.dumps(live), ex=LIVE_TTL)

    def forget_live(self, worker: str) -> None:
        """A worker has ended."""
        self._redis.delete(_live(worker))

    def live(self, workers: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The last word of each worker that spoke within `LIVE_TTL` seconds."""
        names = list(workers)
        if not names:
            return {}
        said = cast(list[bytes | None], self._redis.mget([_live(name) for name in names]))
        return {name: json.loads(raw) for name, raw in zip(names, said, strict=True) if raw}


def _run(run_id: str) -> str:
    return f"{PREFIX}:run:{run_id}"


def _done(run_id: str) -> str:
    return f"{PREFIX}:run:{run_id}:done"


def _live(worker: str) -> str:
    return f"{PREFIX}:live:{worker}"


def _values(counts: Counts) -> tuple[int, ...]:
    return tuple(asdict(counts).values())

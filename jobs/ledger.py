"""`Ledger`: what is done of each run, in Redis; the one truth of a run in flight.

Keys, all under `mlx-batch:`
    runs                    sorted set, run id by creation time
    run:ID                  hash: `spec` (JSON) and `state`
    run:ID:done             hash: committed shard → its `Counts` as a JSON list
    out:FOLDER              the run that an output folder belongs to
    live:WORKER             JSON of what a worker holds that is not committed yet; expires
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, cast

from redis import Redis

from jobs.errors import RunExistsError, RunNotFoundError
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


class Ledger:
    """Reads and writes the records of runs."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection

    def create(self, spec: RunSpec, created: float) -> bool:
        """Record a new run; False if it is there already (it is then left as it was).

        Raises:
            RunExistsError: the output folder belongs to another run.
        """
        self._claim_folder(spec)
        key = _run(spec.run_id)
        with self._redis.pipeline() as pipeline:  # one transaction: a run is there whole
            pipeline.hsetnx(key, "spec", spec.model_dump_json())
            pipeline.hsetnx(key, "state", RunState.RUNNING)
            pipeline.zadd(f"{PREFIX}:runs", {spec.run_id: created}, nx=True)
            is_new, *_ = pipeline.execute()
        return bool(is_new)

    def _claim_folder(self, spec: RunSpec) -> None:
        holder = self._redis.set(_out(spec.out), spec.run_id, nx=True, get=True)
        if holder is not None and cast(bytes, holder).decode() != spec.run_id:
            other = cast(bytes, holder).decode()
            raise RunExistsError(
                f"{spec.out} is the folder of {other}: choose another one, or make the server "
                f"forget that run (mlx-batch forget {other})"
            )

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
            pipeline.hvals(_done(run_id))
            record, shards = pipeline.execute()
        if b"spec" not in record:
            raise RunNotFoundError(f"no run {run_id!r} on this server")
        done = [json.loads(counts) for counts in shards]
        return Progress(
            spec=RunSpec.model_validate_json(record[b"spec"]),
            state=RunState(record.get(b"state", b"running").decode()),
            done=Counts(*map(sum, zip(*done, strict=True))) if done else Counts(),
            shards_done=len(done),
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
        """Record a shard whose part is on disk; it counts once. False if it was recorded before."""
        return bool(self._redis.hset(_done(run_id), str(shard), json.dumps(_values(counts))))

    def reopen(self, run_id: str, lost_shards: Iterable[int]) -> None:
        """The run goes on: these shards' parts are lost, they are to be made again."""
        with self._redis.pipeline() as pipeline:
            for shard in lost_shards:
                pipeline.hdel(_done(run_id), str(shard))
            pipeline.hset(_run(run_id), "state", RunState.RUNNING)
            for key in (_run(run_id), _done(run_id)):
                pipeline.persist(key)
            pipeline.execute()

    def is_done(self, run_id: str, shard: int) -> bool:
        """Whether a shard's part is committed."""
        return bool(self._redis.hexists(_done(run_id), str(shard)))

    def done_shards(self, run_id: str) -> set[int]:
        """The committed shards."""
        return {int(shard) for shard in cast(list[bytes], self._redis.hkeys(_done(run_id)))}

    def shards_done(self, run_id: str) -> int:
        """How many shards are committed."""
        return self._redis.hlen(_done(run_id))

    def finish(self, run_id: str) -> None:
        """The run's dataset is verified; its record is forgotten after `KEEP_FINISHED`."""
        with self._redis.pipeline() as pipeline:
            pipeline.hset(_run(run_id), "state", RunState.FINISHED)
            for key in (_run(run_id), _done(run_id)):
                pipeline.expire(key, KEEP_FINISHED)
            pipeline.execute()

    def forget(self, run_id: str) -> None:
        """Remove a run's record and its claim on its folder; nothing on disk is touched.

        Raises:
            RunNotFoundError: the server knows no such run.
        """
        spec = self.spec(run_id)
        self._redis.delete(_run(run_id), _done(run_id))
        if self._redis.get(_out(spec.out)) == run_id.encode():
            self._redis.delete(_out(spec.out))
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


def _out(folder: str) -> str:
    return f"{PREFIX}:out:{folder}"


def _live(worker: str) -> str:
    return f"{PREFIX}:live:{worker}"


def _values(counts: Counts) -> tuple[int, ...]:
    return tuple(asdict(counts).values())

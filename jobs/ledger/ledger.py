"""`Ledger`: what is done of each run, in Redis.

`jobs.ledger.keys` names its keys; `jobs.ledger.lease` writes those that change with every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from redis import Redis

from jobs.errors import LedgerError, ModelMismatchError, RunExistsError, RunNotFoundError
from jobs.ledger.counts import Counts
from jobs.ledger.halt import Halt
from jobs.ledger.halting import begin_stretch
from jobs.ledger.keys import (
    HALTED,
    RUNS,
    answers_key,
    done_key,
    explain_damage,
    leases_key,
    out_key,
    partial_key,
    rows_key,
    run_key,
    stretch_key,
)
from jobs.ledger.lease import read_number, read_row
from jobs.ledger.stretch import Stretch
from jobs.result_row import ResultRow
from jobs.run_spec import RunSpec

DELETED_AT_ONCE = 1000
KEEP_FINISHED = 30 * 24 * 3600  # seconds the record of a finished run stays


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Progress:
    """What was asked for in a run, and what is done.

    Attributes:
        done: counts of the committed shards.
        partial: counts of the recorded rows of the other shards.
        halt: why no more rows of it begin; None of a run that goes on.
        stretch: what was done since it was enqueued or let go on.
    """

    spec: RunSpec
    state: RunState
    done: Counts
    partial: Counts
    shards_done: int
    halt: Halt | None = None
    stretch: Stretch = field(default_factory=Stretch.nothing)


class Ledger:
    """Reads and writes the records of runs.

    Its methods raise `RunNotFoundError` where the server knows no such run, and `LedgerError` where
    a record is not one that this version writes.
    """

    def __init__(self, connection: Redis) -> None:
        self._redis = connection

    def create(self, spec: RunSpec, created: float) -> bool:
        """Record a new run; return False and change nothing if it is recorded already.

        Raises:
            RunExistsError: the output folder belongs to another run.
        """
        holder = self._redis.set(out_key(spec.out), spec.run_id, nx=True, get=True)
        if holder is not None and cast(bytes, holder) != spec.run_id.encode():
            other = cast(bytes, holder).decode(errors="replace")
            raise RunExistsError(
                f"{spec.out} is the folder of {other}: choose another one, or make the server "
                f"forget that run (mlx-batch forget {other})"
            )
        key = run_key(spec.run_id)
        with self._redis.pipeline() as pipeline:  # one transaction: a run is there whole
            pipeline.hsetnx(key, "spec", spec.model_dump_json())
            pipeline.hsetnx(key, "state", RunState.RUNNING)
            pipeline.zadd(RUNS, {spec.run_id: created}, nx=True)
            begin_stretch(pipeline, spec)
            is_new, *_ = pipeline.execute()
        if is_new and (halt := Halt.for_preview(spec)):  # it has no jobs yet
            self._redis.hset(key, HALTED, halt.encode())
        return bool(is_new)

    def holder(self, folder: str) -> str | None:
        """Return the run that an output folder belongs to, if the server still knows it."""
        raw = cast(bytes | None, self._redis.get(out_key(folder)))
        run_id = "" if raw is None else raw.decode(errors="replace")
        return run_id if run_id and self._redis.exists(run_key(run_id)) else None

    def knows(self, run_id: str) -> bool:
        """Return whether the server has a record of a run."""
        return bool(self._redis.exists(run_key(run_id)))

    def spec(self, run_id: str) -> RunSpec:
        """Return what was asked for in a run."""
        with explain_damage(run_id):
            raw = self._redis.hget(run_key(run_id), "spec")
        if raw is None:
            raise RunNotFoundError(f"no run {run_id!r} on this server")
        return _spec(cast(bytes, raw), run_id)

    def pin_revision(self, spec: RunSpec, revision: str | None) -> RunSpec:
        """Return the spec with the one revision of its model that all rows are made with.

        The producer's if it knew one, else that of the first worker.

        Args:
            revision: the worker's; None if it knows none.

        Raises:
            ModelMismatchError: they differ.
        """
        key = run_key(spec.run_id)
        with self._redis.pipeline() as pipeline:
            if known := spec.revision or revision:
                pipeline.hsetnx(key, "revision", known)
            pipeline.hget(key, "revision")
            raw = pipeline.execute()[-1]
        if raw is None:
            return spec
        pinned = raw.decode(errors="replace")
        if revision not in (None, pinned):
            raise ModelMismatchError(
                f"{spec.run_id} is made with {spec.model} at {pinned}, and this worker has it at "
                f"{revision}: `mlx-batch resume {spec.run_id}` goes on when a worker has the former"
            )
        return spec.model_copy(update={"revision": pinned})

    def progress(self, run_id: str) -> Progress:
        """Return where a run stands."""
        with self._redis.pipeline() as pipeline:  # one moment, in which no shard is in both
            pipeline.hgetall(run_key(run_id))
            pipeline.hvals(done_key(run_id))
            pipeline.hvals(partial_key(run_id))
            pipeline.hgetall(stretch_key(run_id))
            with explain_damage(run_id):
                record, done, partial, stretch = pipeline.execute()
        if b"spec" not in record:
            raise RunNotFoundError(f"no run {run_id!r} on this server")
        return Progress(
            spec=_spec(record[b"spec"], run_id),
            state=_state(record.get(b"state", b"running")),
            done=sum(map(Counts.decode, done), Counts()),
            partial=sum(map(Counts.decode, partial), Counts()),
            shards_done=len(done),
            halt=Halt.read(record.get(HALTED.encode())),
            stretch=Stretch.read(stretch),
        )

    def runs(self) -> list[str]:
        """Return the ids of all runs whose record has not expired, newest first."""
        found = cast(list[bytes], self._redis.zrevrange(RUNS, 0, -1))
        names = [name.decode(errors="replace") for name in found]
        with self._redis.pipeline() as pipeline:
            for name in names:
                pipeline.exists(run_key(name))
            known = pipeline.execute() if names else []
        return [name for name, exists in zip(names, known, strict=True) if exists]

    def reopen(self, run_id: str, shards: Mapping[int, Mapping[int, ResultRow]]) -> None:
        """Let a run go on, without these shards; of each these rows are kept, by their place."""
        with self._redis.pipeline() as pipeline:
            for shard, rows in shards.items():
                for place, row in rows.items():
                    pipeline.hset(rows_key(run_id, shard), str(place), row.encode())
                pipeline.hset(partial_key(run_id), str(shard), Counts.of(rows.values()).encode())
                pipeline.hdel(done_key(run_id), str(shard))
            pipeline.hset(run_key(run_id), "state", RunState.RUNNING)
            for key in _keys(run_id):
                pipeline.persist(key)
            pipeline.execute()

    def recorded(self, run_id: str) -> dict[int, dict[int, ResultRow]]:
        """Return the rows of the shards that are not committed, by shard and by place in it."""
        with explain_damage(run_id):
            names = cast(list[bytes], self._redis.hkeys(partial_key(run_id)))
        shards = [read_number(name, "a shard") for name in names]
        with self._redis.pipeline(transaction=False) as pipeline:
            for shard in shards:
                pipeline.hgetall(rows_key(run_id, shard))
            with explain_damage(run_id):
                found = pipeline.execute() if shards else []
        return {
            shard: {read_number(at, "a row's place"): read_row(raw) for at, raw in rows.items()}
            for shard, rows in zip(shards, found, strict=True)
        }

    def done_shards(self, run_id: str) -> set[int]:
        """Return the committed shards."""
        with explain_damage(run_id):
            names = cast(list[bytes], self._redis.hkeys(done_key(run_id)))
        return {read_number(name, "a shard") for name in names}

    def shards_done(self, run_id: str) -> int:
        """Return how many shards are committed."""
        return self._redis.hlen(done_key(run_id))

    def finish(self, run_id: str) -> None:
        """Mark the run as finished; its record expires after `KEEP_FINISHED`."""
        with self._redis.pipeline() as pipeline:
            pipeline.hset(run_key(run_id), "state", RunState.FINISHED)
            pipeline.hdel(run_key(run_id), HALTED)
            pipeline.delete(answers_key(run_id))
            for key in _keys(run_id):
                pipeline.expire(key, KEEP_FINISHED)
            pipeline.execute()

    def forget(self, run_id: str) -> None:
        """Remove a run's record and its claim on its folder; nothing on disk is touched."""
        spec = self.spec(run_id)
        self._redis.delete(*_keys(run_id), partial_key(run_id), answers_key(run_id))
        shards = range(spec.shards)
        for first in shards[::DELETED_AT_ONCE]:
            some = shards[first : first + DELETED_AT_ONCE]
            self._redis.delete(*(rows_key(run_id, shard) for shard in some))
        if self._redis.get(out_key(spec.out)) == run_id.encode():
            self._redis.delete(out_key(spec.out))
        self._redis.zrem(RUNS, run_id)


def _keys(run_id: str) -> tuple[str, ...]:
    """Return the keys that a finished run keeps; its leases refuse a suspended one."""
    return run_key(run_id), done_key(run_id), leases_key(run_id), stretch_key(run_id)


def _spec(raw: bytes, run_id: str) -> RunSpec:
    try:
        spec = RunSpec.model_validate_json(raw)
    except ValueError as error:
        raise LedgerError(f"the record of {run_id} is not one this version writes") from error
    if spec.run_id != run_id or not spec.model:
        raise LedgerError(f"the record of {run_id} is that of another run, or of no model")
    return spec


def _state(raw: bytes) -> RunState:
    try:
        return RunState(raw.decode())
    except ValueError:
        raise LedgerError(f"the ledger holds {raw[:80]!r} in place of a state") from None

"""`adopt_run`: lets a server know a run again, from the folder of its dataset.

`mlx-batch run` ends its server with the run, and a server may lose what it knew. A manifest is the
run's whole spec, and the parts are what is done of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from redis import Redis

from jobs.dataset import Dataset
from jobs.errors import DatasetError
from jobs.ledger import Counts, Ledger
from jobs.ledger.keys import done_key
from jobs.run_spec import RunSpec

_TOKENS = ("prompt_tokens", "completion_tokens")
_COUNTED = ("finish_reason", "error_type", *_TOKENS, "complete", "duplicate_of")


def adopt_run(connection: Redis, root: Path) -> RunSpec:
    """Record the run of a folder, with all shards whose parts are there as done.

    Raises:
        DatasetError: the manifest or a part can't be read.
        RunExistsError: the server knows the folder as that of another run.
    """
    spec, parts = spec_of(root), parts_of(root)
    counts = {shard: counts_of([part]) for shard, part in parts.items()}
    ledger = Ledger(connection)
    if ledger.create(spec, time.time()) and counts:
        done: dict[Any, Any] = {shard: each.encode() for shard, each in counts.items()}
        connection.hset(done_key(spec.run_id), mapping=done)
        if Dataset(root).is_finished:
            ledger.finish(spec.run_id)
    return spec


def move_run(old: Redis, connection: Redis, root: Path) -> None:
    """Record the run of a folder as `adopt_run` does, with the rows that another server knows.

    Raises:
        DatasetError, RunExistsError: see there.
    """
    run_id = adopt_run(connection, root).run_id
    if rows := Ledger(old).recorded(run_id):
        Ledger(connection).reopen(run_id, rows)


def spec_of(root: Path) -> RunSpec:
    """Return what was asked for in the run of a folder, which may have been moved since.

    Raises:
        DatasetError: there is no manifest, or it is not one that this version writes.
    """
    dataset = Dataset(root)
    manifest = dataset.manifest() | {"out": str(root)}
    manifest.pop("result", None)
    try:
        return RunSpec.model_validate(manifest)
    except ValueError as error:
        raise DatasetError(f"{dataset.layout.manifest} is not one this version writes") from error


def parts_of(root: Path) -> dict[int, Path]:
    """Return the parts that are there, by shard."""
    spec, layout = spec_of(root), Dataset(root).layout
    parts = {shard: layout.part(shard, spec.shards) for shard in range(spec.shards)}
    return {shard: part for shard, part in parts.items() if part.exists()}


def counts_of(parts: Iterable[Path]) -> Counts:
    """Return what some parts hold.

    Raises:
        DatasetError: one can't be read.
    """
    import pyarrow.dataset as pads  # brings pandas where there is one: few commands need it

    files = list(parts)
    if not files:
        return Counts()
    try:
        rows = pads.dataset(files, format="parquet")
        table = rows.to_table(columns=[name for name in _COUNTED if name in rows.schema.names])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"{files[0].parent} can't be read: {error}") from error
    failed = table.filter(pc.equal(table["finish_reason"], "error"))
    types: list[dict[str, Any]] = pc.value_counts(failed["error_type"]).to_pylist()
    cut = "complete" in table.column_names and pc.sum(pc.invert(table["complete"])).as_py()
    own = table
    if "duplicate_of" in table.column_names:
        own = table.filter(pc.is_null(table["duplicate_of"]))
    return Counts(
        ok=table.num_rows - failed.num_rows,
        error=failed.num_rows,
        prompt_tokens=pc.sum(own["prompt_tokens"]).as_py() or 0,
        completion_tokens=pc.sum(own["completion_tokens"]).as_py() or 0,
        incomplete=cut or 0,
        error_types={each["values"] or "": each["counts"] for each in types},
        duplicates=table.num_rows - own.num_rows,
    )

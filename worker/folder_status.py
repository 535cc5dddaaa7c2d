"""`folder_status`: where a run stands, as far as the folder of its dataset tells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from jobs.dataset import Dataset
from jobs.errors import DatasetError
from jobs.ledger import Counts, RunState
from jobs.run_spec import RunSpec
from worker.status import RunStatus

_COUNTED = ("finish_reason", "error_type", "prompt_tokens", "completion_tokens", "complete")


def folder_status(root: Path) -> RunStatus:
    """Return what is known without a Redis: what was asked for, and the parts that are there.

    Raises:
        DatasetError: the folder's manifest or a part can't be read.
    """
    dataset = Dataset(root)
    manifest = dataset.manifest()
    manifest.pop("result", None)
    try:
        spec = RunSpec.model_validate(manifest)
    except ValueError as error:
        raise DatasetError(f"{dataset.layout.manifest} is not one this version writes") from error
    parts = [dataset.layout.part(shard, spec.shards) for shard in range(spec.shards)]
    there = [part for part in parts if part.exists()]
    return RunStatus(
        spec=spec,
        state=RunState.FINISHED if dataset.is_finished else RunState.RUNNING,
        done=_counts(there),
        partial=Counts(),
        shards_done=len(there),
        shards={"done": len(there)}
        | dict.fromkeys(("queued", "started", "delayed", "deferred", "failed"), 0)
        | {"missing": spec.shards - len(there)},
        has_server=False,
    )


def _counts(parts: Iterable[Path]) -> Counts:
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
    return Counts(
        ok=table.num_rows - failed.num_rows,
        error=failed.num_rows,
        prompt_tokens=pc.sum(table["prompt_tokens"]).as_py() or 0,
        completion_tokens=pc.sum(table["completion_tokens"]).as_py() or 0,
        incomplete=cut or 0,
        error_types={each["values"] or "": each["counts"] for each in types},
    )

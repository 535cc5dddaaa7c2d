"""`folder_status`: where a run stands, as far as the folder of its dataset tells."""

from __future__ import annotations

from pathlib import Path

from jobs.adopt import counts_of, parts_of, spec_of
from jobs.dataset import Dataset
from jobs.ledger import Counts, RunState
from jobs.queue.queue_state import PLACES
from worker.status.status import RunStatus


def folder_status(root: Path) -> RunStatus:
    """Return what is known without a Redis: what was asked for, and the parts that are there.

    Raises:
        DatasetError: the folder's manifest or a part can't be read.
    """
    spec, parts = spec_of(root), parts_of(root)
    missing = {"missing": spec.shards - len(parts)}
    return RunStatus(
        spec=spec,
        state=RunState.FINISHED if Dataset(root).is_finished else RunState.RUNNING,
        done=counts_of(parts.values()),
        partial=Counts(),
        shards_done=len(parts),
        shards={"done": len(parts)} | dict.fromkeys(PLACES, 0) | missing,
        has_server=False,
    )

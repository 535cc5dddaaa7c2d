"""Names of our keys and channels in Redis; all begin with `mlx-batch:`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import ResponseError

from jobs.errors import LedgerError

PREFIX = "mlx-batch"
RUNS = f"{PREFIX}:runs"
_DAMAGE = ("WRONGTYPE", "is not an integer", "would overflow")


def run_key(run_id: str) -> str:
    """Hash: `spec` and `state`."""
    return f"{PREFIX}:run:{run_id}"


def done_key(run_id: str) -> str:
    """Hash: committed shard → its `Counts`."""
    return f"{PREFIX}:run:{run_id}:done"


def leases_key(run_id: str) -> str:
    """Hash: shard → how often it was claimed, negative once it was committed; `SHARD:idle` → claims
    in a row without a new row."""
    return f"{PREFIX}:run:{run_id}:leases"


def partial_key(run_id: str) -> str:
    """Hash: shard that is not whole → `Counts` of its rows that are done."""
    return f"{PREFIX}:run:{run_id}:partial"


def rows_key(run_id: str, shard: int) -> str:
    """Hash: place in the shard → a row that is done, until the shard is committed."""
    return f"{PREFIX}:run:{run_id}:rows:{shard}"


def rows_channel(run_id: str) -> str:
    """Channel on which each row is told as it is recorded."""
    return f"{PREFIX}:run:{run_id}:told"


def out_key(folder: str) -> str:
    """String: the run that an output folder belongs to."""
    return f"{PREFIX}:out:{folder}"


def live_key(worker: str) -> str:
    """String: what a worker's engine does; expires."""
    return f"{PREFIX}:live:{worker}"


@contextmanager
def of_our_kind(run_id: str) -> Iterator[None]:
    """Tell apart what Redis refuses because a key of a run holds what we never put there.

    Raises:
        LedgerError: instead of Redis' own error.
    """
    try:
        yield
    except ResponseError as error:
        if not any(sign in str(error) for sign in _DAMAGE):
            raise
        raise LedgerError(f"somebody else wrote into the records of {run_id}: {error}") from None


def steady_key(queue: str) -> str:
    """String: since when a queue's workers have heartbeats without a gap, in Redis' seconds."""
    return f"{PREFIX}:steady:{queue}"

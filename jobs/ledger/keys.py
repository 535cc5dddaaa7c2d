"""The keys and channels in Redis besides RQ's; all begin with `mlx-batch:`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import ResponseError

from jobs.errors import LedgerError

PREFIX = "mlx-batch"
RUNS = f"{PREFIX}:runs"  # sorted set: run id by creation time
HALTED = "halted"  # of a run's hash: its `Halt`
_DAMAGE = ("WRONGTYPE", "is not an integer", "would overflow")


def run_key(run_id: str) -> str:
    """Hash: `spec` (JSON), `state`, `revision` (see `Ledger.pin_revision`), and `HALTED`."""
    return f"{PREFIX}:run:{run_id}"


def done_key(run_id: str) -> str:
    """Hash: committed shard → its `Counts` (JSON)."""
    return f"{PREFIX}:run:{run_id}:done"


def leases_key(run_id: str) -> str:
    """Hash: shard → fencing token of its latest claim, negative once it was committed;
    `SHARD:idle` → claims in a row without a new row."""
    return f"{PREFIX}:run:{run_id}:leases"


def partial_key(run_id: str) -> str:
    """Hash: shard that is not committed → `Counts` of its recorded rows."""
    return f"{PREFIX}:run:{run_id}:partial"


def rows_key(run_id: str, shard: int) -> str:
    """Hash: place in the shard → a recorded row, until the shard is committed."""
    return f"{PREFIX}:run:{run_id}:rows:{shard}"


def rows_channel(run_id: str) -> str:
    """Channel: each row as it is recorded."""
    return f"{PREFIX}:run:{run_id}:recorded"


def stretch_key(run_id: str) -> str:
    """Hash: a `Stretch` of the run, the one at hand."""
    return f"{PREFIX}:run:{run_id}:stretch"


def answers_key(run_id: str) -> str:
    """Hash: `ROW:SAMPLE` that others ask the same as → the recorded row, until the run's end."""
    return f"{PREFIX}:run:{run_id}:answers"


def out_key(folder: str) -> str:
    """String: id of the run that an output folder belongs to."""
    return f"{PREFIX}:out:{folder}"


def live_key(worker: str) -> str:
    """String: what a worker's engine does (JSON); expires."""
    return f"{PREFIX}:live:{worker}"


def loading_key(queue: str) -> str:
    """Set: the workers of a queue that load its model and are not registered yet; expires."""
    return f"{PREFIX}:loading:{queue}"


def steady_key(queue: str) -> str:
    """String: since when a queue's workers have heartbeats without a gap, in Redis' seconds."""
    return f"{PREFIX}:steady:{queue}"


@contextmanager
def explain_damage(run_id: str) -> Iterator[None]:
    """Name the run whose keys hold what this program never writes.

    Raises:
        LedgerError: Redis refuses a command over the type or value of a key.
    """
    try:
        yield
    except ResponseError as error:
        if not any(sign in str(error) for sign in _DAMAGE):
            raise
        raise LedgerError(f"another program wrote into the records of {run_id}: {error}") from None

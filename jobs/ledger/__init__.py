"""The ledger: what is done of each run, in Redis, and who may write it."""

from __future__ import annotations

from jobs.ledger.counts import Counts
from jobs.ledger.halt import Halt, HaltReason
from jobs.ledger.halting import Halting
from jobs.ledger.lease import ShardLease, read_row
from jobs.ledger.ledger import Ledger, Progress, RunState
from jobs.ledger.stretch import Stretch

__all__ = [
    "Counts",
    "Halt",
    "HaltReason",
    "Halting",
    "Ledger",
    "Progress",
    "RunState",
    "ShardLease",
    "Stretch",
    "read_row",
]

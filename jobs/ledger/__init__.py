"""The ledger: what is done of each run, in Redis, and who may write it."""

from __future__ import annotations

from jobs.ledger.ledger import Ledger, Progress, RunState

__all__ = ["Ledger", "Progress", "RunState"]

"""`Standing`: where a run stands, in one word and a sentence, from what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from jobs.ledger import Halt, HaltReason
from worker.status.live import Live
from worker.status.phase import Phase

UNDER_WAY = ("queued", "started", "delayed")  # shards that will be done if nobody stops them


class Standing(StrEnum):
    """Where a run stands.

    Attributes:
        WAITING: jobs wait, and no worker serves their model, or those that do are busy.
        STARTING: a worker that will serve it is loading the model.
        RUNNING: rows are answered, or the dataset is being verified.
        FAILING: all that has ended has failed; more is under way.
        FAILED: shards have failed, and nothing of it is under way.
        PAUSED: workers begin no more of its rows, since it was paused by a command.
        HALTED: they begin no more, since it has reached a bound.
        INTERRUPTED: it is not done, and nothing of it is queued, or nobody will come for it.
        UNKNOWN: it is not done, and no server says more.
        FINISHED: its dataset is verified.
    """

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    FAILING = "failing"
    FAILED = "failed"
    PAUSED = "paused"
    HALTED = "halted"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"
    FINISHED = "finished"

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is under way; a halted run may have rows that end yet."""
        return self in (
            Standing.FINISHED,
            Standing.FAILED,
            Standing.INTERRUPTED,
            Standing.UNKNOWN,
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What a standing follows from.

    Attributes:
        is_finished: the ledger says so.
        halt: why no more rows of it begin, if so.
        has_server: a server says so, and not the folder alone.
        has_rows: of the run, at least one row is done.
        shards: how many are done, queued, started, delayed, failed or missing.
        has_failed: a job has failed for good, the one that finalizes among them.
        is_finalizing: that one waits for nothing but a worker, or runs.
        workers: those of the model's queue.
        is_asleep: as in `RunStatus`.
    """

    is_finished: bool
    halt: Halt | None
    has_server: bool
    has_rows: bool
    shards: Mapping[str, int]
    has_failed: bool
    is_finalizing: bool
    workers: Mapping[str, Live]
    is_asleep: bool = False

    @property
    def standing(self) -> Standing:
        if self.is_finished:
            return Standing.FINISHED
        if not self.has_server and not self.is_asleep:
            return Standing.UNKNOWN
        if self.halt:
            return Standing.PAUSED if self.halt.reason is HaltReason.PAUSED else Standing.HALTED
        is_under_way = self.is_finalizing or any(self.shards[where] for where in UNDER_WAY)
        if not is_under_way or self.is_asleep:
            return Standing.FAILED if self.has_failed else Standing.INTERRUPTED
        if self.has_failed and not self.has_rows:
            return Standing.FAILING
        if all(said.phase is Phase.LOADING for said in self.workers.values()):
            return Standing.STARTING if self.workers else Standing.WAITING
        is_begun = self.shards["started"] or self.has_rows
        return Standing.RUNNING if is_begun else Standing.WAITING

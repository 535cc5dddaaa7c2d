"""`RunStatus`: where a run stands, from the ledger, RQ's registries and the live workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from redis import Redis

from jobs.ledger import HaltReason, Ledger, Progress, RunState
from jobs.queue.queue_state import QueueState
from jobs.queue.run_jobs import open_queue
from worker.live import Live

MOST_ERRORS = 5  # failed jobs whose reasons are told


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus(Progress):
    """One run at one moment.

    Attributes:
        shards: how many are done, queued, started, delayed, deferred (put aside, since the run is
            halted), failed, or missing: nowhere, so that `--resume` enqueues them.
        workers: what each worker of this model published last, those among them that load it;
            none when the run is over.
        errors: why jobs failed, by job id.
    """

    shards: dict[str, int]
    workers: dict[str, Live] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def rows_done(self) -> int:
        return self.done.rows + self.partial.rows

    @property
    def rows_error(self) -> int:
        return self.done.error + self.partial.error

    @property
    def error_types(self) -> Mapping[str, int]:
        """How many of the rows in error have which `error_type`."""
        return (self.done + self.partial).error_types

    @property
    def rows_incomplete(self) -> int:
        """Constrained answers that were cut."""
        return self.done.incomplete + self.partial.incomplete

    @property
    def is_finished(self) -> bool:
        return self.state is RunState.FINISHED

    @property
    def is_failed(self) -> bool:
        """Whether shards, or the finalize job, have failed and nothing of it is under way."""
        under_way = any(self.shards[where] for where in ("queued", "started", "delayed"))
        has_failed = bool(self.errors or self.shards["failed"])
        return has_failed and not under_way and not self.is_finished

    @property
    def is_at_rest(self) -> bool:
        """Whether the run is halted, and no row of it is under way."""
        return self.halt is not None and not self.is_finished and not self.shards["started"]

    @property
    def is_over(self) -> bool:
        return self.is_finished or self.is_failed or self.is_at_rest

    @property
    def state_name(self) -> str:
        """`running`, `finished`, `failed`, `paused`, or `halted` for another reason."""
        if self.is_failed:
            return "failed"
        if self.halt is None or self.is_finished:
            return self.state.value
        return "paused" if self.halt.reason is HaltReason.PAUSED else "halted"

    @property
    def tokens_per_second(self) -> float:
        return sum((said.tokens_per_second for said in self.workers.values()), 0.0)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for `status --json`."""
        return {
            "run_id": self.spec.run_id,
            "model": self.spec.model,
            "out": self.spec.out,
            "state": self.state_name,
            "halt": asdict(self.halt) if self.halt else None,
            "rows": self.spec.rows,
            "rows_done": self.rows_done,
            "rows_error": self.rows_error,
            "error_types": self.error_types,
            "rows_incomplete": self.rows_incomplete,
            "committed": asdict(self.done),
            "shards": {"total": self.spec.shards, **self.shards},
            "tokens_per_second": self.tokens_per_second,
            "workers": {name: asdict(said) for name, said in self.workers.items()},
            "errors": self.errors,
        }


def run_status(connection: Redis, run_id: str) -> RunStatus:
    """Return where a run stands; changes nothing.

    Raises:
        RunNotFoundError: the server knows no such run.
    """
    progress = Ledger(connection).progress(run_id)
    spec = progress.spec
    there = QueueState(open_queue(connection, spec.queue))
    begins = f"{spec.run_id}-"
    ours = {
        where: {job_id for job_id in job_ids if job_id.startswith(begins)}
        for where, job_ids in there.jobs().items()
    }
    shards = {"done": progress.shards_done}
    shards |= {where: len(job_ids - {spec.finalize_id}) for where, job_ids in ours.items()}
    shards["missing"] = max(0, spec.shards - sum(shards.values()))
    reasons = {job_id: there.reason(job_id) for job_id in sorted(ours["failed"])[:MOST_ERRORS]}
    status = RunStatus(
        **{each.name: getattr(progress, each.name) for each in fields(progress)},
        shards=shards,
        errors={job_id: reason for job_id, reason in reasons.items() if reason is not None},
    )
    if status.is_over:  # the workers are busy with other runs
        return status
    return replace(status, workers=Live.of_queue(connection, spec.queue, there.workers))

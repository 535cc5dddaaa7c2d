"""`RunStatus`: where a run stands, from the ledger, RQ's registries and the live workers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from redis import Redis

from jobs.ledger import Ledger, Progress, RunState
from jobs.queue.queue_state import QueueState
from jobs.queue.run_jobs import open_queue
from worker.status.live import Live
from worker.status.serving import served_models, told
from worker.status.standing import UNDER_WAY, Facts, Standing

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
        is_finalizing: the run's last job waits for nothing but a worker, or runs.
        served: of a run that waits, how many workers serve each model.
        has_server: a Redis that knows the run was asked, and not its folder alone.
        folder: of a run whose server lies there, as that of `mlx-batch run`: its commands name it.
        is_asleep: of such a run, no process is at work, so nobody comes for its jobs.
    """

    shards: dict[str, int]
    workers: dict[str, Live] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    is_finalizing: bool = False
    served: Mapping[str, int] = field(default_factory=dict)
    has_server: bool = True
    folder: Path | None = None
    is_asleep: bool = False

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
        """Constrained answers that are not whole."""
        return self.done.incomplete + self.partial.incomplete

    @property
    def standing(self) -> Standing:
        return Facts(
            is_finished=self.state is RunState.FINISHED,
            has_server=self.has_server,
            halt=self.halt,
            has_rows=self.rows_done > 0,
            shards=self.shards,
            has_failed=bool(self.errors or self.shards["failed"]),
            is_finalizing=self.is_finalizing,
            workers=self.workers,
            is_asleep=self.is_asleep,
        ).standing

    @property
    def percent(self) -> str:
        """How much of it is done; 100 % only when all is."""
        return f"{100 * self.rows_done // self.spec.rows} %"

    @property
    def is_finished(self) -> bool:
        return self.standing is Standing.FINISHED

    @property
    def remark(self) -> str:
        """What else is to be said of its standing: what it waits for, why it fails, what to do."""
        model = self.spec.model
        run = shlex.quote(str(self.folder)) if self.folder else self.spec.run_id
        if not self.has_server and not self.is_asleep:
            return "told from its folder alone, as no Redis that knows it is there"
        match self.standing:
            case Standing.WAITING if self.workers:
                return f"the workers that serve {model} are busy with other runs"
            case Standing.WAITING:
                return f"no worker serves {model}; {told(self.served)}"
            case Standing.STARTING:
                return f"a worker loads {model}"
            case Standing.FAILING:
                return "every job that has ended has failed"
            case Standing.FAILED:
                return f"when the reason is gone: mlx-batch resume {run}"
            case Standing.INTERRUPTED:
                why = "nobody is at work on it" if self.is_asleep else "nothing of it is queued"
                return f"{why}; what is missing: mlx-batch resume {run}"
            case Standing.PAUSED | Standing.HALTED if self.halt:
                ends = "" if self.is_at_rest else "; rows under way still end"
                how = f"it goes on with: mlx-batch continue {run}"
                return f"{self.halt.message}{ends}; {how}"
        return ""

    @property
    def is_at_rest(self) -> bool:
        """Whether the run is halted, and no row of it is under way."""
        is_halted = self.halt is not None and self.shards_done < self.spec.shards
        return is_halted and (self.is_asleep or not self.shards["started"])

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen without a command, such as `resume` or `retry`."""
        return self.standing.is_over or self.is_at_rest

    @property
    def reasons(self) -> dict[str, str]:
        """Why jobs failed, each reason once, with the job that tells it."""
        return {reason: job_id for job_id, reason in reversed(self.errors.items())}

    @property
    def tokens_per_second(self) -> float:
        return sum((said.tokens_per_second for said in self.workers.values()), 0.0)

    @property
    def seconds_left(self) -> int | None:
        """How long it will take yet, at the speed of now; None if that is not known.

        It is not before as many rows are answered as run at once: the first that end are short.
        """
        stretch = self.stretch
        rows = stretch.ok  # those in error say nothing of how long an answer is
        speed = self.tokens_per_second or stretch.tokens_per_second
        at_once = sum(said.running for said in self.workers.values())
        if self.standing is not Standing.RUNNING or rows < max(1, at_once) or not speed:
            return None
        left = self.spec.rows - self.rows_done
        return round(left * stretch.output_tokens / rows / speed) if left else None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for `status --json`."""
        return {
            "run_id": self.spec.run_id,
            "model": self.spec.model,
            "out": self.spec.out,
            "state": self.standing.value,
            "remark": self.remark,
            "halt": asdict(self.halt) if self.halt else None,
            "rows": self.spec.rows,
            "rows_done": self.rows_done,
            "rows_error": self.rows_error,
            "error_types": self.error_types,
            "rows_incomplete": self.rows_incomplete,
            "committed": asdict(self.done),
            "shards": {"total": self.spec.shards, **self.shards},
            "tokens_per_second": self.tokens_per_second,
            "mean_tokens_per_second": round(self.stretch.tokens_per_second, 1),
            "seconds_at_work": self.stretch.seconds,
            "seconds_left": self.seconds_left,
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
    last = {where for where, job_ids in ours.items() if spec.finalize_id in job_ids}
    is_deferred = "deferred" in last and progress.shards_done == spec.shards
    shards = {"done": progress.shards_done}
    shards |= {where: len(job_ids - {spec.finalize_id}) for where, job_ids in ours.items()}
    shards["missing"] = max(0, spec.shards - sum(shards.values()))
    reasons = {job_id: there.reason(job_id) for job_id in sorted(ours["failed"])[:MOST_ERRORS]}
    rest = shards["done"] + shards["deferred"] == spec.shards
    if progress.halt and progress.halt.first_rows and not rest:  # a preview is under way
        progress = replace(progress, halt=None)
    status = RunStatus(
        **{each.name: getattr(progress, each.name) for each in fields(progress)},
        shards=shards,
        errors={job_id: reason for job_id, reason in reasons.items() if reason is not None},
        is_finalizing=is_deferred or not last.isdisjoint(UNDER_WAY),
    )
    if status.is_over:  # the workers are busy with other runs
        return status
    status = replace(status, workers=Live.of_queue(connection, spec.queue, there.workers))
    if status.workers:
        return status
    return replace(status, served=served_models(connection))

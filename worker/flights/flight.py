"""`Flight`: one RQ job between its start and its end on this worker."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from jobs.dataset import Dataset, Verification
from jobs.ledger import Ledger
from jobs.run_spec import RunSpec
from worker.report_process import ReportProcess
from worker.rq import Execution, Job

logger = logging.getLogger("mlx_batch.worker")


@dataclass(slots=True, kw_only=True, eq=False)
class Flight(ABC):
    """What every job has while it runs.

    Attributes:
        inbox: what other threads ask the worker's thread to do.
        deadline: when the job's timeout ends, by `time.monotonic()`; infinite without one.
    """

    execution: Execution
    spec: RunSpec
    inbox: SimpleQueue[Callable[[], None]]
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        timeout = self.job.timeout or 0
        self.deadline = time.monotonic() + timeout if timeout > 0 else float("inf")

    @property
    def job(self) -> Job:
        return self.execution.job

    @property
    def rows_in_engine(self) -> int:
        return 0

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether the job can be committed."""

    @abstractmethod
    def launch(self) -> None:
        """Start the work; its end is put into the inbox."""

    def submit_again(self) -> None:  # noqa: B027
        """Submit the rows at which the engine failed, when it is time."""

    def save(self) -> None:  # noqa: B027
        """Record what has ended since the last call; raises like `commit`."""

    @abstractmethod
    def commit(self) -> None:
        """Make the whole job's work durable; may be repeated.

        A shard that RQ has taken from us is still ours to commit until another worker claims it.

        Raises:
            DatasetError: the part can't be written, or the dataset does not verify.
            LeaseLostError: another worker has claimed the shard.
        """

    def release(self) -> None:  # noqa: B027
        """Give up the job before it is done, in order: its next claim does not count as idle."""

    def cancel(self) -> None:  # noqa: B027
        """Free what the job holds; what still ends of it is ignored."""


@dataclass(slots=True, kw_only=True, eq=False)
class FinalizeFlight(Flight):
    """The last job of a run, which verifies the dataset in the background.

    Attributes:
        holds: whether an execution still belongs to this worker.
        report: what writes the run's report when the dataset is whole.
    """

    ledger: Ledger
    background: Executor
    holds: Callable[[Execution], bool]
    report: ReportProcess | None
    done: Future[Verification] = field(init=False)

    @property
    def is_complete(self) -> bool:
        return self.done.done()

    def launch(self) -> None:
        self.done = self.background.submit(self._finalize)
        self.done.add_done_callback(lambda _: self.inbox.put(lambda: None))

    def _finalize(self) -> Verification:
        verification = Dataset(Path(self.spec.out)).finalize()
        if self.report is not None:
            self.report.write(Path(self.spec.out))
        return verification

    def cancel(self) -> None:
        if self.report is not None:
            self.report.stop()

    def commit(self) -> None:
        self.done.result()
        if self.holds(self.execution):
            self.ledger.finish(self.spec.run_id)
            logger.info("%s is complete: %s", self.spec.run_id, self.spec.out)

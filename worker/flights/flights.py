"""`Flights`: the jobs that a worker has begun and not ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from redis.exceptions import RedisError

from jobs.dataset import Dataset
from jobs.errors import (
    DatasetError,
    JobPayloadError,
    LeaseLostError,
    LedgerError,
    ModelMismatchError,
    OutputTakenError,
)
from jobs.ledger import Halt, Ledger, ShardLease
from jobs.queue.tasks import FinalizeRun, GenerateShard, read_task
from jobs.run_spec import RunSpec
from vllm_mlx.errors import MLXBatchError
from worker.engine.text_engine import WorkerEngine
from worker.flights.flight import FinalizeFlight, Flight
from worker.flights.halts import Halts
from worker.flights.shard_flight import ShardFlight
from worker.flights.shard_rows import ShardRows
from worker.flights.twins import Twins
from worker.output_root import OutputRoot
from worker.report_process import ReportProcess
from worker.rq import Execution, Job
from worker.rq.bookkeeper import Bookkeeper
from worker.rq.parking import park


class Flights(dict[str, Flight]):
    """Flights by the id of their job. Each step may be repeated: Redis may fail in any.

    Args:
        model: the worker's model; jobs of runs with another one are refused.
        engine: what answers rows.
        output_root: jobs of runs that it does not allow are refused.
        report_media: see `ReportProcess`; None writes no reports.

    Attributes:
        inbox: what other threads ask this one to do.
        revision: of the model that the engine has loaded; None if it is not known.
    """

    def __init__(
        self,
        bookkeeper: Bookkeeper,
        model: str,
        engine: WorkerEngine,
        output_root: OutputRoot,
        report_media: Sequence[str] | None,
    ) -> None:
        super().__init__()
        self.inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.revision: str | None = None
        self._bookkeeper = bookkeeper
        self._model = model
        self._engine = engine
        self._output_root = output_root
        self._report_media = report_media
        self._ledger = Ledger(bookkeeper.connection)
        self._halts = Halts(bookkeeper.connection)
        self._twins = Twins(bookkeeper.connection)
        self._specs: dict[str, RunSpec] = {}
        self._leaving: set[str] = set()  # jobs that are handed over when their rows have ended
        self._background = ThreadPoolExecutor(1, thread_name_prefix="finalize")

    @property
    def rows_in_engine(self) -> int:
        return sum(flight.rows_in_engine for flight in self.values())

    @property
    def complete(self) -> list[Flight]:
        """Those that can be committed."""
        return [flight for flight in self.values() if flight.is_complete]

    def start(self, job: Job) -> None:
        """Begin a job that was dequeued."""
        flight = self.get(job.id)
        if flight and not self._bookkeeper.holds(flight.execution):
            # Taken back while we were suspended: it is ours again, with all that is done of it.
            self._bookkeeper.let_go(flight.execution)
            flight.execution = self._bookkeeper.begin(job)
        elif flight or self._bookkeeper.is_held(job):  # enqueued twice
            self._bookkeeper.drop(job)
        else:
            self._launch(self._bookkeeper.begin(job))

    def _launch(self, execution: Execution) -> None:
        try:
            task = read_task(execution.job)
            spec = self._spec(task.run_id)
            Dataset(Path(spec.out)).check_free(spec.run_id)
            if isinstance(task, FinalizeRun):
                flight: Flight | None = self._finalizing(execution, spec)
            else:
                halt = self._halts.begin(spec.run_id)
                if self._park(execution, spec, halt, spec.shard_rows(task.shard).start):
                    return
                flight = self._shard(execution, spec, task, halt)
        except MLXBatchError as error:
            self._bookkeeper.fail(execution, error, retry=_may_pass(error))
            return
        if flight is None:
            self._bookkeeper.succeed(execution)
            return
        self[execution.job_id] = flight
        flight.launch()
        self.hand_out(flight)

    def _park(self, execution: Execution, spec: RunSpec, halt: Halt | None, first: int) -> bool:
        """Put a job aside if its run is halted.

        Args:
            first: the first of its rows that may be missing, counted through the dataset.
        """
        if halt is None or first < halt.first_rows:
            return False
        return park(self._bookkeeper, execution, spec.run_id)

    def _finalizing(self, execution: Execution, spec: RunSpec) -> FinalizeFlight:
        media = self._report_media
        return FinalizeFlight(
            execution=execution,
            spec=spec,
            inbox=self.inbox,
            ledger=self._ledger,
            background=self._background,
            holds=self._bookkeeper.holds,
            report=None if media is None else ReportProcess(media),
        )

    def _shard(
        self, execution: Execution, spec: RunSpec, task: GenerateShard, halt: Halt | None
    ) -> ShardFlight | None:
        """Return the flight of a shard; None if it is committed.

        Raises:
            MLXBatchError: a record of the run is not one that this version writes.
        """
        lease = ShardLease.claim(self._bookkeeper.connection, spec.run_id, task.shard)
        if lease is None:
            return None
        return ShardFlight(
            execution=execution,
            spec=spec,
            inbox=self.inbox,
            task=task,
            rows=ShardRows(spec, task),
            lease=lease,
            halt=halt,
            engine=self._engine,
            worker=self._bookkeeper.name,
        )

    def _spec(self, run_id: str) -> RunSpec:
        if run_id not in self._specs:
            spec = self._ledger.spec(run_id)
            if spec.queue != self._bookkeeper.queue.name:
                raise ModelMismatchError(
                    f"{run_id} wants {spec.model}, this worker has {self._model}"
                )
            self._output_root.check(run_id, spec.out)
            self._specs[run_id] = self._ledger.pin_revision(spec, self.revision)
        return self._specs[run_id]

    def save(self) -> None:
        """Record what has been answered."""
        for flight in list(self.values()):
            self._attempt(flight, flight.save)
        shards = self._shards
        for shard in shards:
            self._heed_bounds(shard)
        awaited = [shard for shard in shards if shard.to_keep]
        for shard in awaited:
            self._twins.keep(shard)
        if awaited:
            self.hand_out()

    def hand_out(self, only: Flight | None = None) -> None:
        """Give rows that wait for the answer of another what there is.

        Args:
            only: those of this flight; None is all.
        """
        shards = self._shards
        if waiting := [each for each in shards if each.waiting and only in (None, each)]:
            self._twins.hand_out(waiting, shards)

    @property
    def _shards(self) -> list[ShardFlight]:
        return [flight for flight in self.values() if isinstance(flight, ShardFlight)]

    def _heed_bounds(self, flight: ShardFlight) -> None:
        """Halt the run of a flight that has recorded rows, if they reach a bound."""
        stretch, flight.stretch = flight.stretch, None
        if stretch is None or not self._halts.halt_if_due(
            flight.spec.run_id, stretch, flight.example_error
        ):
            return
        for each in self._shards:
            if each.spec.run_id == flight.spec.run_id:
                each.begin_before(0)

    def commit(self, flight: Flight) -> None:
        """End a job that is complete."""
        if self._attempt(flight, flight.commit):
            self.end(flight, self._bookkeeper.succeed)

    def submit_again(self) -> None:
        """Submit the rows at which the engine failed, when it is time."""
        for flight in self.values():
            flight.submit_again()

    def heed_halts(self) -> None:
        """Begin no rows of runs that are halted, and put their jobs aside once they rest."""
        flights = self._shards
        halts = self._halts.among(flight.spec.run_id for flight in flights)
        for flight in reversed(flights):  # what goes back to the front of the queue keeps its order
            if flight.job.id not in self._leaving:
                flight.heed(halts.get(flight.spec.run_id))
            if flight.is_at_rest and self._attempt(flight, flight.save):
                self._set_aside(flight)

    def _set_aside(self, flight: ShardFlight) -> None:
        if not self._bookkeeper.holds(flight.execution):
            self._lose(flight)
            return
        flight.release()
        halt = self._halts.begin(flight.spec.run_id)
        if self._park(flight.execution, flight.spec, halt, flight.rows_at[flight.missing[0]]):
            self._land(flight)
        elif flight.job.id in self._leaving:
            self.end(flight, self._bookkeeper.give_back)

    def hand_over(self, count: int) -> None:
        """Give up to so many jobs back to the queue, the last ones first: others have none.

        Of each the rows that were begun end here, and are recorded; one of which all were stays.
        """
        if not count:
            return
        for flight in reversed([each for each in self._shards if each.end]):
            end = flight.end
            flight.begin_before(0)
            if not any(place < end for place in flight.missing):
                flight.begin_before(end)
                continue
            self._leaving.add(flight.job.id)
            if (count := count - 1) == 0:
                break
        self.heed_halts()

    def stop_on_command(self) -> None:
        """Stop the jobs that a command of `rq` asks to stop."""
        for job_id in list(self._bookkeeper.to_stop):
            if flight := self.get(job_id):
                self._break_off(flight, self._bookkeeper.stop)
            self._bookkeeper.to_stop.discard(job_id)

    def fail_overdue(self) -> None:
        """Fail the jobs whose timeout has passed."""
        for flight in [each for each in self.values() if each.deadline < time.monotonic()]:
            self._fail(flight, TimeoutError(f"the job took longer than {flight.job.timeout} s"))

    def give_back(self) -> None:
        """Put all jobs back to the front of the queue, in their order."""
        for flight in reversed(list(self.values())):
            self._break_off(flight, self._bookkeeper.give_back)

    def close(self) -> None:
        """Wait for the verification that may be under way."""
        self._background.shutdown()

    def end(self, flight: Flight, tell: Callable[[Execution], None]) -> None:
        """Report to RQ how a job ended, unless another worker has it by now."""
        if not self._bookkeeper.holds(flight.execution):
            self._lose(flight)
            return
        tell(flight.execution)
        self._land(flight)

    def _attempt(self, flight: Flight, step: Callable[[], None]) -> bool:
        """Do a step of a job; an error ends the job. Return whether the step succeeded."""
        try:
            step()
            return True
        except RedisError:
            raise
        except LeaseLostError:
            self._lose(flight)
        except Exception as error:  # whatever a file system or a row can raise
            is_final = isinstance(error, (JobPayloadError, LedgerError, OutputTakenError))
            self._fail(flight, error, retry=not is_final)
        return False

    def _fail(self, flight: Flight, error: Exception, *, retry: bool = True) -> None:
        self._break_off(flight, partial(self._bookkeeper.fail, error=error, retry=retry))

    def _break_off(self, flight: Flight, tell: Callable[[Execution], None]) -> None:
        flight.release()
        self.end(flight, tell)

    def _lose(self, flight: Flight) -> None:
        """Leave a job to the worker that has taken it over."""
        self._bookkeeper.let_go(flight.execution)
        self._land(flight)

    def _land(self, flight: Flight) -> None:
        flight.cancel()
        self._leaving.discard(flight.job.id)
        self.pop(flight.job.id, None)


def _may_pass(error: MLXBatchError) -> bool:
    """Return whether a job that could not begin may yet do so: a disk may come back."""
    return isinstance(error, DatasetError) and not isinstance(error, OutputTakenError)

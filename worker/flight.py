"""`Flight`: one RQ job between its start and its end on this worker."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from rq.executions import Execution
from rq.job import Job

from jobs.dataset import Verification, encode_cell
from jobs.errors import JobPayloadError
from jobs.ledger import Counts, ShardLease
from jobs.queue.tasks import GenerateShard, ShardRow
from jobs.requests import GenerationRequest
from jobs.result_row import ResultRow
from jobs.run_spec import RunSpec
from vllm_mlx.batching.prompts import MediaPrompt, Prompt
from vllm_mlx.batching.request import Request
from vllm_mlx.errors import (
    EngineError,
    EngineStoppedError,
    InvalidRequestError,
    WorkerKilled,
)
from vllm_mlx.outputs import EngineStats, GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.seeds import row_seed, sample_seed

MAX_IDLE_CLAIMS = 5  # of a shard, in a row, before its rows are given up
ROW_BACKOFF = (0.5, 5.0)  # seconds before a row at which the engine failed is tried again


class TextEngine(Protocol):
    """What a worker needs of an engine; `vllm_mlx.batching.core.EngineCore` is one."""

    max_num_seqs: int

    @property
    def stats(self) -> EngineStats:
        """Counts since the start."""

    def start(self) -> None:
        """Load the model; does nothing when it is loaded."""

    def stop(self) -> None:
        """Free the model."""

    def submit(self, *requests: Request) -> list[Future[GenerationOutput]]:
        """Queue requests; see `vllm_mlx.batching.core.EngineCore`."""


@dataclass(slots=True, kw_only=True)
class Flight:
    """What every job has while it runs.

    Attributes:
        deadline: when the job's timeout ends, by `time.monotonic()`; infinite without one.
    """

    execution: Execution
    spec: RunSpec
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

    def cancel(self) -> None:
        """Free what the job holds; what still ends of it is ignored."""


@dataclass(slots=True, kw_only=True)
class FinalizeFlight(Flight):
    """The last job of a run.

    Attributes:
        done: the verification that goes on in the background.
    """

    done: Future[Verification] | None = None


@dataclass(slots=True, kw_only=True)
class ShardFlight(Flight):
    """A shard whose rows are in the engine; with several samples, a row stands there as often.

    Attributes:
        worker: who works on it.
        ids: the rows' ids, by their place in the shard.
        pending: the rows that the engine has not answered, by the same place.
        results: the rows that are done, by the same place.
        unsaved: those of them that the ledger does not know yet.
        tries: how often the engine failed at a row since the flight began.
    """

    task: GenerateShard
    lease: ShardLease
    worker: str
    ids: dict[int, str] = field(default_factory=dict)
    pending: dict[int, Future[GenerationOutput]] = field(default_factory=dict)
    results: dict[int, ResultRow] = field(default_factory=dict)
    unsaved: set[int] = field(default_factory=set)
    tries: Counter[int] = field(default_factory=Counter)

    @property
    def is_complete(self) -> bool:
        return len(self.results) == len(self.task.samples)

    @property
    def rows_in_engine(self) -> int:
        return len(self.pending)

    def launch(self, engine: TextEngine, on_done: Callable[[ShardFlight, int], None]) -> None:
        """Submit all rows that no earlier holder has finished; one that can't be is an error row.

        Args:
            on_done: called from any thread as each submitted row ends.

        Raises:
            EngineStoppedError: no row's fault, so no row's error.
        """
        places = range(len(self.task.samples))
        # By its place and its name: a row that somebody else wrote there would spoil the dataset.
        self.results = {
            at: row
            for at, row in self.lease.known.items()
            if at in places
            and (row.row, row.sample_index)
            == (self.task.samples[at][0].row, self.task.samples[at][1])
        }
        if self.lease.idle > MAX_IDLE_CLAIMS:
            self._give_up()
        else:
            self.submit(engine, [at for at in places if at not in self.results], on_done)

    def submit(
        self,
        engine: TextEngine,
        places: Iterable[int],
        on_done: Callable[[ShardFlight, int], None],
    ) -> None:
        """Give the engine these rows."""
        wanted = set(places)
        requests: list[Request] = []
        submitted: list[int] = []
        for row, indices in self._places():
            indices = [at for at in indices if at in wanted]
            if not indices:
                continue
            self.ids |= dict.fromkeys(indices, row.id or str(row.row))
            try:
                requests += self._requests(row, indices)
            except Exception as error:  # one row must never cost its neighbours
                for at in indices:
                    self._end_row(at, GenerationOutput.from_error(error, self.spec.model))
            else:
                submitted += indices
        pending = dict(zip(submitted, engine.submit(*requests), strict=True))
        self.pending |= pending
        for index, future in pending.items():
            future.add_done_callback(partial(self._on_done, on_done, index))

    def _give_up(self) -> None:
        """Whoever took the shard died before it finished one row: the next would die, too."""
        error = WorkerKilled(
            f"{MAX_IDLE_CLAIMS} workers in a row ended while they held this shard, before one more "
            "of its rows was done; `mlx-batch retry` tries its rows again"
        )
        for at, (row, _) in enumerate(self.task.samples):
            if at not in self.results:
                self.ids[at] = row.id or str(row.row)
                self._end_row(at, GenerationOutput.from_error(error, self.spec.model))

    def _places(self) -> Iterator[tuple[ShardRow, list[int]]]:
        """Each row of the input, and the places of its samples in the shard."""
        start = 0
        for row in self.task.rows:
            yield row, list(range(start, start + row.samples))
            start += row.samples

    def _on_done(
        self, tell: Callable[[ShardFlight, int], None], index: int, _: Future[GenerationOutput]
    ) -> None:
        tell(self, index)

    def settle(self, index: int) -> float | None:
        """Take the answer of a row that ended.

        Returns:
            Seconds after which it is to be submitted again, if the engine failed at it.

        Raises:
            EngineStoppedError: the engine has ended before the row did.
        """
        future = self.pending.pop(index, None)
        if future is None:  # cancelled
            return None
        error = future.exception()
        if isinstance(error, EngineStoppedError):
            raise error
        output = GenerationOutput.from_error(error, self.spec.model) if error else future.result()
        if output.error_type == EngineError.__name__ and self.tries[index] < len(ROW_BACKOFF):
            self.tries[index] += 1
            return ROW_BACKOFF[self.tries[index] - 1]
        self._end_row(index, output)
        return None

    def _end_row(self, index: int, output: GenerationOutput) -> None:
        row, sample = self.task.samples[index]
        self.results[index] = ResultRow(
            id=self.ids[index],
            row=row.row,
            output=output,
            attempts=self.lease.fencing_token + self.tries[index],
            worker=self.worker,
            sample_index=sample,
        )
        self.unsaved.add(index)

    def save(self) -> None:
        """Record what has ended since the last time.

        Raises:
            LeaseLostError: another worker has claimed the shard.
        """
        if self.unsaved:
            rows = {index: self.results[index] for index in sorted(self.unsaved)}
            self.lease.record(rows, self.counts())
            self.unsaved.clear()

    def cancel(self) -> None:
        pending, self.pending = self.pending, {}
        for future in pending.values():
            future.cancel()

    def counts(self) -> Counts:
        return Counts.of(self.results.values())

    def rows(self) -> list[ResultRow]:
        """The shard as it goes to the dataset."""
        return [
            replace(self.results[index], columns=self._columns(row))
            for index, (row, _) in enumerate(self.task.samples)
        ]

    def _requests(self, row: ShardRow, indices: list[int]) -> list[Request]:
        """The samples of a row; what is read of it also names it."""
        request = self._request(row)
        self.ids |= dict.fromkeys(indices, request.id or str(row.row))
        samples = [self.task.samples[index][1] for index in indices]
        prompt = self._prompt(request)
        return [Request(prompt, self._params(request, row, each)) for each in samples]

    def _request(self, row: ShardRow) -> GenerationRequest:
        if row.error:
            raise InvalidRequestError(row.error)
        return self.spec.input.format.dialect.request(row.data).located(self.task.folder)

    def _params(self, request: GenerationRequest, row: ShardRow, sample: int) -> SamplingParams:
        params = request.sampling_params(self.spec.sampling)
        if params.greedy:
            return params
        seed = request.seed
        if seed is None:
            run_seed = self.spec.sampling.seed
            seed = row_seed(self.spec.run_id if run_seed is None else str(run_seed), row.row)
        return params.model_copy(update={"seed": sample_seed(seed, sample)})

    def _prompt(self, request: GenerationRequest) -> Prompt:
        if request.media:
            return MediaPrompt(request.chat(), request.video_params(self.spec.video_params))
        if request.prompt is not None and not self.spec.chat:
            return request.prompt
        return request.chat()

    def _columns(self, row: ShardRow) -> dict[str, Any]:
        kinds = self.spec.columns
        columns = self.spec.input.format.dialect.columns(row.data)
        try:
            return {name: encode_cell(value, kinds[name]) for name, value in columns.items()}
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise JobPayloadError(
                f"row {row.row} has a column that its run has not, or has as another type: {error}"
            ) from None

"""`ShardFlight`: a shard's job, from its rows to its part of the dataset."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path

from jobs.dataset import Dataset
from jobs.errors import LeaseLostError, LedgerError
from jobs.ledger import Counts, Halt, ShardLease, Stretch
from jobs.queue.tasks import GenerateShard
from jobs.result_row import ResultRow
from vllm_mlx.batching.request import Request
from vllm_mlx.errors import EngineError, EngineStoppedError, WorkerKilled
from vllm_mlx.outputs import GenerationOutput
from worker.engine.text_engine import WorkerEngine
from worker.flights.flight import Flight
from worker.flights.shard_rows import ShardRows

MAX_IDLE_CLAIMS = 5  # of a shard, in a row, before its rows are given up
MAX_LONGER = 2  # times that a constrained answer that was cut is tried again, each twice as long
ROW_BACKOFF = (0.5, 5.0)  # seconds before a row at which the engine failed is tried again


@dataclass(slots=True, kw_only=True, eq=False)
class ShardFlight(Flight):
    """A shard whose rows are in the engine; with several samples, a row stands there as often.

    Attributes:
        rows: what the engine is asked for them, and what the dataset gets.
        worker: the name of this worker, which stands in each row.
        pending: the rows that the engine has not answered, by place in the shard like all of the
            following.
        results: the rows that are done.
        unsaved: those of them that the ledger does not know yet.
        tries: how often the engine failed at a row since the flight began.
        longer: how often an answer was tried again because `max_tokens` had cut it.
        again_at: when a row at which the engine failed is submitted again, by `time.monotonic()`.
        halt: why the run is halted when the job begins, if it is.
        end: from this place on no more rows begin; those that have begun end.
        waiting: rows that ask the same as another, by what that one is called; see `Twins`.
        to_keep: answers that others wait for, and that were recorded a moment ago.
        stretch: what of the run had been done when rows were last recorded, until it is looked at.
    """

    task: GenerateShard
    rows: ShardRows
    lease: ShardLease
    engine: WorkerEngine
    worker: str
    halt: Halt | None = None
    pending: dict[int, Future[GenerationOutput]] = field(default_factory=dict)
    results: dict[int, ResultRow] = field(default_factory=dict)
    unsaved: set[int] = field(default_factory=set)
    tries: Counter[int] = field(default_factory=Counter)
    longer: Counter[int] = field(default_factory=Counter)
    again_at: dict[int, float] = field(default_factory=dict)
    end: int = 0
    waiting: dict[int, str] = field(default_factory=dict)
    to_keep: dict[str, ResultRow] = field(default_factory=dict)
    stretch: Stretch | None = None

    @property
    def is_complete(self) -> bool:
        return len(self.results) == len(self.task.samples)

    @property
    def rows_in_engine(self) -> int:
        return len(self.pending) + len(self.waiting)

    def launch(self) -> None:
        """Submit all rows that no earlier holder has finished; one that can't be is an error row.

        Raises:
            EngineStoppedError: the engine has ended.
        """
        self.results = self.rows.those_of_it(self.lease.known)
        if self.lease.idle <= MAX_IDLE_CLAIMS:
            self.heed(self.halt)
            return
        error = WorkerKilled(
            f"{MAX_IDLE_CLAIMS} workers in a row ended while they held this shard, before one more "
            "of its rows was done; `mlx-batch retry` tries its rows again"
        )
        self.end = self._end_under(self.halt)
        self._fail([place for place in self.missing if place < self.end], error)

    @property
    def rows_at(self) -> range:
        """The rows of its places, counted through the dataset."""
        return self.spec.shard_rows(self.task.shard)

    def heed(self, halt: Halt | None) -> None:
        """Begin what may begin of a run that is halted so, and no more."""
        self.begin_before(self._end_under(halt))

    def _end_under(self, halt: Halt | None) -> int:
        rows = self.rows_at
        return len(rows) if halt is None else max(0, min(len(rows), halt.first_rows - rows.start))

    def begin_before(self, end: int) -> None:
        """Begin the rows before a place, and no others."""
        before, self.end = self.end, end
        if before < end:
            self._begin(place for place in self.missing if before <= place < end)
        elif end < before:
            self._hold_from(end)

    def _hold_from(self, end: int) -> None:
        self.again_at = {place: at for place, at in self.again_at.items() if place < end}
        self.waiting = {place: key for place, key in self.waiting.items() if place < end}
        late = {place: future for place, future in self.pending.items() if place >= end}
        self.engine.cancel_waiting(late.values())
        for place, future in late.items():
            if future.cancelled():
                del self.pending[place]

    @property
    def example_error(self) -> str | None:
        """What one of its rows ended in, if any did in an error."""
        failed = (row for row in self.results.values() if row.output.error_type)
        return next((f"{row.id}: {row.output.error}" for row in failed), None)

    def _begin(self, places: Iterable[int]) -> None:
        """Submit the rows of these places, but let those wait that ask the same as another."""
        samples, alone = self.task.samples, []
        for place in places:
            row, sample = samples[place]
            if row.same_as is None:
                alone.append(place)
            else:
                self.waiting[place] = f"{row.same_as}:{sample}"
        self.submit(alone)

    def ask(self, places: list[int]) -> None:
        """Submit rows that have waited."""
        for place in places:
            del self.waiting[place]
        if places:
            self.submit(places)

    def copy(self, place: int, answer: ResultRow) -> None:
        """End a row that has waited with the answer of another."""
        del self.waiting[place]
        self._end_row(place, answer.output, duplicate_of=answer.duplicate_of or answer.id)

    @property
    def kept_later(self) -> list[str]:
        """What rows are called that others may wait for, since they are on their way here."""
        open = [*self.pending, *self.again_at, *self.unsaved]
        rows = (self.task.samples[place] for place in open)
        return [f"{row.row}:{sample}" for row, sample in rows if row.has_same]

    @property
    def is_at_rest(self) -> bool:
        """Whether it is halted, and all that may begin has ended."""
        open = (self.pending, self.waiting, self.again_at)
        return self.end < len(self.rows_at) and not any(open) and not self.is_complete

    @property
    def missing(self) -> list[int]:
        """The places of the rows that are neither done nor in the engine."""
        done = self.results.keys() | self.pending.keys()
        return [place for place in range(len(self.task.samples)) if place not in done]

    def submit(self, places: Iterable[int]) -> None:
        """Give the engine the rows of these places, samples of one row together."""
        requests: list[Request] = []
        submitted: list[int] = []
        for _, group in groupby(sorted(places), lambda place: self.task.samples[place][0].row):
            samples = list(group)
            try:
                requests += self.rows.requests(samples, self.longer)
            except Exception as error:  # one row must never cost its neighbours
                self._fail(samples, error)
            else:
                submitted += samples
        pending = dict(zip(submitted, self.engine.submit(*requests), strict=True))
        self.pending |= pending
        for place, future in pending.items():
            future.add_done_callback(partial(self._put_end, place))

    def submit_again(self) -> None:
        due = [place for place, at in self.again_at.items() if at <= time.monotonic()]
        for place in due:
            del self.again_at[place]
        if due:
            self.submit(due)

    def _put_end(self, place: int, future: Future[GenerationOutput]) -> None:
        self.inbox.put(partial(self._settle, place, future))  # called on any thread

    def _settle(self, place: int, future: Future[GenerationOutput]) -> None:
        """Take the answer of a row that ended.

        Raises:
            EngineStoppedError: the engine has ended before the row did.
        """
        if self.pending.get(place) is not future:  # cancelled
            return
        del self.pending[place]
        error = future.exception()
        if isinstance(error, EngineStoppedError):
            raise error
        output = GenerationOutput.from_error(error, self.spec.model) if error else future.result()
        has_failed = output.error_type == EngineError.__name__
        may_succeed = has_failed and self.tries[place] < len(ROW_BACKOFF)
        may_be_longer = self._may_be_longer(place, output)
        if place >= self.end and (may_succeed or may_be_longer):
            return  # it is tried again when the run goes on
        if may_succeed:
            self.again_at[place] = time.monotonic() + ROW_BACKOFF[self.tries[place]]
            self.tries[place] += 1
        elif may_be_longer:
            self.longer[place] += 1
            self.submit([place])
        else:
            self._end_row(place, output)

    def _may_be_longer(self, place: int, output: GenerationOutput) -> bool:
        was_cut = output.complete is False and output.finish_reason == "length"
        return was_cut and self.spec.retry_incomplete and self.longer[place] < MAX_LONGER

    def _fail(self, places: Iterable[int], error: Exception) -> None:
        for place in places:
            self._end_row(place, GenerationOutput.from_error(error, self.spec.model))

    def _end_row(
        self, place: int, output: GenerationOutput, duplicate_of: str | None = None
    ) -> None:
        row, sample = self.task.samples[place]
        self.results[place] = ResultRow(
            id=self.rows.id_of(row),
            row=row.row,
            output=output,
            attempts=self.lease.fencing_token + self.tries[place] + self.longer[place],
            worker=self.worker,
            sample_index=sample,
            finished_at=datetime.now(UTC).replace(tzinfo=None),
            duplicate_of=duplicate_of,
        )
        self.unsaved.add(place)

    def save(self) -> None:
        while self.unsaved:
            rows = {place: self.results[place] for place in sorted(self.unsaved)}
            foreseen = {place for place in rows if self.task.samples[place][0].error}
            counts = Counts.of(self.results.values())
            self.stretch, refused = self.lease.record(rows, counts, foreseen)
            if not refused:
                self.unsaved.clear()
                self._keep(rows)
            for place in refused:  # the run is halted
                del self.results[place]
                self.unsaved.discard(place)

    def _keep(self, recorded: Mapping[int, ResultRow]) -> None:
        for place, result in recorded.items():
            row, sample = self.task.samples[place]
            if row.has_same:
                self.to_keep[f"{row.row}:{sample}"] = result

    def commit(self) -> None:
        self.save()
        dataset = Dataset(Path(self.spec.out))
        dataset.prepare(self.spec.manifest())
        rows = self.rows.for_dataset(self.results)
        dataset.write_part(self.task.shard, rows, check=self.lease.check)
        self.lease.commit(Counts.of(self.results.values()))

    def release(self) -> None:
        with contextlib.suppress(LeaseLostError, LedgerError):
            self.lease.release()

    def cancel(self) -> None:
        self.again_at.clear()
        self.waiting.clear()
        pending, self.pending = self.pending, {}
        for future in pending.values():
            future.cancel()

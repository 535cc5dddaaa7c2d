"""`Backlog`: the rows that an engine's process has to answer, and which of them it gets when."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from vllm_mlx.batching.request import Request, by_prompt
from vllm_mlx.outputs import GenerationOutput
from vllm_mlx.sampling_params import SamplingParams
from worker.engine.wire import Asked, Order, encode_prompt


@dataclass(slots=True, eq=False)
class Pending:
    """A row, one sample of a prompt, that is not answered.

    Attributes:
        key: names it to the process.
        prompt: as it stands in an order; the same object for all samples of a prompt.
        sent: the process at hand has it.
        began: that process has begun to work on it.
    """

    key: int
    prompt: str
    params: SamplingParams
    future: Future[GenerationOutput] = field(default_factory=Future)
    sent: bool = False
    began: bool = False


def pending_rows(requests: Iterable[Request], keys: Iterator[int], model: str) -> list[Pending]:
    """Return requests as rows; those whose prompt JSON can't hold are answered with the error."""
    rows = []
    for samples in by_prompt(requests):
        prompt, failure = "", None
        try:
            prompt = encode_prompt(samples[0].prompt)
        except Exception as error:  # one prompt must never cost its neighbours
            failure = GenerationOutput.from_error(error, model)
        for sample in samples:
            row = Pending(next(keys), prompt, sample.params)
            if failure:
                row.future.set_result(failure)
            rows.append(row)
    return rows


def order_of(rows: Iterable[Pending]) -> Order:
    """Return the order to answer rows; neighbours of one prompt are its samples."""
    prompts = (list(each) for _, each in itertools.groupby(rows, key=lambda row: id(row.prompt)))
    asked = (Asked(each[0].prompt, {row.key: row.params for row in each}) for each in prompts)
    return Order(asked=tuple(asked))


class Backlog:
    """The pending rows: all are sent at once, or, after a process died, one at a time.

    Any row that the process had begun may have killed it. Each of these is tried again alone,
    before all others, so that another death names the row that caused it.
    """

    def __init__(self) -> None:
        self._rows: dict[int, Pending] = {}
        self._suspects: deque[Pending] = deque()
        self._alone: Pending | None = None

    @property
    def unsent(self) -> int:
        """How many rows the process has not got yet."""
        return sum(not row.sent for row in self._rows.values())

    @property
    def waiting(self) -> set[Future[GenerationOutput]]:
        """The futures of the rows that no living process has begun to work on."""
        return {row.future for row in self._rows.values() if not row.began}

    def add(self, rows: Iterable[Pending]) -> None:
        """Add rows, to be answered in this order."""
        self._rows |= {row.key: row for row in rows}

    def due(self) -> list[Pending]:
        """Return the rows to send now, and take them for sent."""
        if self._alone:
            return []
        rows = [row for row in self._rows.values() if not row.sent]
        while self._suspects:
            suspect = self._suspects.popleft()
            if suspect.key in self._rows:
                self._alone = suspect
                rows = [suspect]
                break
        for row in rows:
            row.sent = True
        return rows

    def begin(self, keys: Iterable[int]) -> None:
        """Note that the process has begun to work on these rows."""
        for key in keys:
            if row := self._rows.get(key):
                row.began = True

    def take(self, key: int) -> Pending | None:
        """Remove and return an answered or cancelled row; None if it was removed before."""
        row = self._rows.pop(key, None)
        if row and row is self._alone:
            self._alone = None
        return row

    def take_all(self) -> list[Pending]:
        """Remove and return every row."""
        rows = list(self._rows.values())
        self._rows.clear()
        self._suspects.clear()
        self._alone = None
        return rows

    def fail(self) -> Pending | None:
        """Note that the process died. Return the row that has killed two, if there is one."""
        killer = self._alone and self.take(self._alone.key)
        if not killer:
            sent = [row for row in self._rows.values() if row.sent]
            self._suspects.extend([row for row in sent if row.began] or sent)
        for row in self._rows.values():
            row.sent = row.began = False
        return killer

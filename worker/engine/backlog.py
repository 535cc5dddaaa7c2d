"""`Backlog`: the rows that an engine's process has to answer, and in which company."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from vllm_mlx.batching.request import Request
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


def pending_rows(samples: Sequence[Request], keys: Iterator[int], model: str) -> list[Pending]:
    """Return the samples of one prompt as rows, with the error in them if JSON can't hold it."""
    try:
        prompt = encode_prompt(samples[0].prompt)
    except Exception as error:  # one prompt must never cost its neighbours
        rows = [Pending(next(keys), "", sample.params) for sample in samples]
        for row in rows:
            row.future.set_result(GenerationOutput.from_error(error, model))
        return rows
    return [Pending(next(keys), prompt, sample.params) for sample in samples]


def order_of(rows: Iterable[Pending]) -> Order:
    """Return the order to answer rows; neighbours of one prompt are its samples."""
    prompts = (list(each) for _, each in itertools.groupby(rows, key=lambda row: id(row.prompt)))
    asked = (Asked(each[0].prompt, {row.key: row.params for row in each}) for each in prompts)
    return Order(asked=tuple(asked))


class Backlog:
    """Decides what is sent: everything, or, after a process died, one row at a time.

    Any of the rows that a process had begun may have killed it. They are tried again alone, before
    all others, so that a process that dies once more tells which row it was.
    """

    def __init__(self) -> None:
        self._rows: dict[int, Pending] = {}
        self._suspects: deque[Pending] = deque()
        self._alone: Pending | None = None

    @property
    def unsent(self) -> int:
        """Rows that the process does not know of yet."""
        return sum(not row.sent for row in self._rows.values())

    def add(self, rows: Iterable[Pending]) -> None:
        """Rows to answer, in this order."""
        self._rows |= {row.key: row for row in rows}

    def due(self) -> list[Pending]:
        """The rows to send now."""
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
        """The process has begun to work on these rows."""
        for key in keys:
            if row := self._rows.get(key):
                row.began = True

    def take(self, key: int) -> Pending | None:
        """A row that is answered or cancelled; None if it was before."""
        row = self._rows.pop(key, None)
        if row and row is self._alone:
            self._alone = None
        return row

    def take_all(self) -> list[Pending]:
        """Every row: nobody answers them any more."""
        rows = list(self._rows.values())
        self._rows.clear()
        self._suspects.clear()
        self._alone = None
        return rows

    def fail(self) -> Pending | None:
        """The process died. Returns the row that has killed it twice, if there is one."""
        killer = self._alone and self.take(self._alone.key)
        if not killer:
            sent = [row for row in self._rows.values() if row.sent]
            self._suspects.extend([row for row in sent if row.began] or sent)
        for row in self._rows.values():
            row.sent = row.began = False
        return killer

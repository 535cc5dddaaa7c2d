"""`PlannedPrompts`: every row of an input as the engine would take it, with what would fail."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from jobs.requests import GenerationRequest
from jobs.sources import Input, SourceRow, validated
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.request import Request, new_request_id
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import WINDOW
from vllm_mlx.video_params import VideoParams
from worker.plan.duplicates import Duplicates
from worker.row_prompt import prompt_of

SAMPLE = 512
"""Rows that are kept, drawn at random, for timings and for `--measure`."""
LISTED_LINES = 5
TOLD_EVERY = 100


class Planned(NamedTuple):
    """One sample of a row, or one label to rank, as the engine would run it.

    Attributes:
        tokens: of its prompt.
        own: those of them that are computed for it alone.
        shared: those that are computed for it and for others, and that no one before it had.
        least, most: tokens of its answer.
    """

    tokens: int
    own: int
    shared: int
    least: int
    most: int


class Sampled(NamedTuple):
    """A row with what asks the engine for it."""

    planned: Planned
    request: Request


@dataclass(slots=True)
class Failures:
    """Rows that would end in the same type of error.

    Attributes:
        example: the message of the first.
        lines: of the first few in the input.
    """

    example: str
    count: int = 0
    lines: list[int] = field(default_factory=list)


@dataclass(slots=True)
class PlannedPrompts:
    """What one pass over an input found.

    Attributes:
        rows: of the input.
        bad_rows: those that no request can be made of.
        failures: rows that would end in error, these among them, by `error_type`.
        sample: some rows that would run, drawn at random.
    """

    rows: int = 0
    bad_rows: int = 0
    failures: dict[str, Failures] = field(default_factory=dict)
    planned: list[Planned] = field(default_factory=list)
    sample: list[Sampled] = field(default_factory=list)
    duplicates: Duplicates = field(default_factory=Duplicates)

    @property
    def failing(self) -> int:
        return sum(each.count for each in self.failures.values())

    @property
    def prompt_tokens(self) -> int:
        return sum(each.tokens for each in self.planned)

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens less those that shared prefixes save."""
        return sum(each.own + each.shared for each in self.planned)

    def fail(self, row: SourceRow, error: Exception) -> None:
        found = self.failures.setdefault(type(error).__name__, Failures(str(error)))
        found.count += 1
        if len(found.lines) < LISTED_LINES:
            found.lines.append(row.line)


@dataclass(slots=True, kw_only=True)
class Reading:
    """How an input is read: with what holds for rows that do not say it themselves."""

    source: Input
    sampling: SamplingParams
    video: VideoParams
    n: int
    chat: bool

    def rows(self) -> Iterator[SourceRow]:
        return validated(self.source, sampling=self.sampling, n=self.n, chat=self.chat)

    def request(self, request: GenerationRequest) -> Request:
        prompt = prompt_of(request, self.video, chat=self.chat)
        return Request(prompt, request.over(self.sampling))


def read_prompts(reading: Reading, core: EngineCore, told: Callable[[int], None]) -> PlannedPrompts:
    """Read every row, and have the engine look at it as if it was to run.

    Args:
        told: called with the number of rows read so far.

    Raises:
        InputFileError: the input can't be read.
    """
    found, draw = PlannedPrompts(), random.Random("plan")
    shares = _Shares(core)
    for row in reading.rows():
        found.rows += 1
        if not found.rows % TOLD_EVERY:
            told(found.rows)
        if row.request is None:
            found.bad_rows += 1
            found.fail(row, row.error or ValueError("no request"))
            continue
        request = reading.request(row.request)
        found.duplicates.add(request, row.request)
        try:
            sequences = core.examine(request)
        except MLXBatchError as error:
            found.fail(row, error)
            continue
        shares.add(request, sequences, row.samples)
        if shares.is_full:
            _take(found, shares, draw)
    _take(found, shares, draw)
    return found


def _take(found: PlannedPrompts, shares: _Shares, draw: random.Random) -> None:
    """Take over what a window of rows shares, and draw from it."""
    for sampled in shares.settle():
        found.planned.append(sampled.planned)
        place = draw.randrange(len(found.planned))
        if len(found.sample) < SAMPLE:
            found.sample.append(sampled)
        elif place < SAMPLE:  # reservoir sampling: each row is as likely to stay
            found.sample[place] = sampled


class _Shares:
    """Has the runner's own cache of prefixes say what rows share that wait at the same time."""

    def __init__(self, core: EngineCore) -> None:
        self._prefixes = core.runner.new_prefixes()
        self._width = core.runner.bounds.max_num_seqs
        self._waiting: list[tuple[Request, Sequence]] = []

    def add(self, request: Request, sequences: list[Sequence], samples: int) -> None:
        for sequence in sequences:
            for _ in range(samples):
                each = copy(sequence)
                each.request_id = new_request_id()
                self._waiting.append((request, each))

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= WINDOW * self._width

    def settle(self) -> Iterator[Sampled]:
        """Yield what waits, in the order in which it would start."""
        waiting, self._waiting = self._waiting, []
        if self._prefixes:
            for _, sequence in waiting:
                self._prefixes.announce(sequence)
        waiting.sort(key=lambda each: -each[1].max_tokens)
        for first in range(0, len(waiting), self._width):
            together = waiting[first : first + self._width]
            for request, sequence in together:
                yield Sampled(self._planned(sequence), request)
            if self._prefixes:
                for _, sequence in together:
                    self._prefixes.withdraw(sequence)

    def _planned(self, sequence: Sequence) -> Planned:
        tokens, cached, shared = len(sequence.prompt_tokens), 0, 0
        if self._prefixes:
            prefix, new = self._prefixes.longest(sequence)
            shared = sum(part.end - part.start for part in new)
            cached = (prefix.end if prefix else 0) - shared
        params, most = sequence.params, sequence.max_tokens
        least = most if params.ignore_eos else min(params.min_tokens, most)
        return Planned(tokens, tokens - cached - shared, shared, least, most)


def histogram(planned: list[Planned]) -> list[tuple[int, int, int]]:
    """Return classes of prompt lengths, `(least, most, rows)` each, to powers of two."""
    classes = Counter(max(4, (each.tokens - 1).bit_length()) for each in planned)
    if not classes:
        return []
    found = []
    for power in range(min(classes), max(classes) + 1):
        least = 1 if power == 4 else (1 << (power - 1)) + 1
        found.append((least, 1 << power, classes[power]))
    return found

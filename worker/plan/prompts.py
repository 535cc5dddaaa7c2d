"""`PlannedPrompts`: every row of an input as the engine would take it, with what would fail."""

from __future__ import annotations

import random
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from jobs.requests import GenerationRequest
from jobs.sources import Input, SourceRow, validated
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.media_pool import THREADS as MEDIA_THREADS
from vllm_mlx.batching.prompts import MediaPrompt
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams
from worker.flights.row_prompt import prompt_of
from worker.plan.duplicates import Duplicates
from worker.plan.shares import Planned, Sampled, Shares

SAMPLE = 512
"""Rows that are kept, drawn at random, for timings and for `--measure`."""
LISTED_LINES = 5
TOLD_EVERY = 100
MOST_KINDS = 20
"""Of errors; what is unlike these is told by its type alone."""
_OF_ONE_ROW = re.compile(r"'[^']*'|\"[^\"]*\"|/\S+|\d+")
"""What of a message is another one in each row: quoted text, paths, numbers."""


@dataclass(slots=True)
class Failures:
    """Rows that would end in the same error, but for numbers and names in it.

    Attributes:
        error_type: as it would stand in their rows of the dataset.
        example: the message of the first.
        lines: of the first few in the input.
    """

    error_type: str
    example: str
    count: int = 0
    lines: list[int] = field(default_factory=list)


@dataclass(slots=True)
class PlannedPrompts:
    """What one pass over an input found.

    Attributes:
        rows: of the input.
        bad_rows: those that no request can be made of.
        failures: rows that would end in error, these among them, by what is alike in their errors.
        sample: some rows that would run, drawn at random.
    """

    rows: int = 0
    bad_rows: int = 0
    failures: dict[tuple[str, str], Failures] = field(default_factory=dict)
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
        name, message = type(error).__name__, str(error)
        kind = name, _OF_ONE_ROW.sub("…", message)
        if kind not in self.failures and len(self.failures) >= MOST_KINDS:
            kind = name, ""
        found = self.failures.setdefault(kind, Failures(name, message))
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
    shares = Shares(core)
    for row, request, examined in _examined(reading, core):
        found.rows += 1
        if not found.rows % TOLD_EVERY:
            told(found.rows)
        if row.request is None or request is None:
            found.bad_rows += 1
            found.fail(row, row.error or ValueError("no request"))
            continue
        found.duplicates.add(request, row.request)
        try:
            shares.add(request, examined(), row.samples)
        except MLXBatchError as error:
            found.fail(row, error)
        if shares.is_full:
            _take(found, shares, draw)
    _take(found, shares, draw)
    return found


_Examined = tuple[SourceRow, Request | None, Callable[[], list[Sequence]]]


def _examined(reading: Reading, core: EngineCore) -> Iterator[_Examined]:
    """Yield rows in order, and what tells the sequences of each; media are read ahead of it."""
    ahead: deque[_Examined] = deque()
    with ThreadPoolExecutor(MEDIA_THREADS) as threads:
        for row in reading.rows():
            request = reading.request(row.request) if row.request else None
            examined: Callable[[], list[Sequence]] = list
            if request and isinstance(request.prompt, MediaPrompt):
                examined = threads.submit(core.examine, request).result
            elif request:
                examined = partial(core.examine, request)
            ahead.append((row, request, examined))
            if len(ahead) > MEDIA_THREADS:
                yield ahead.popleft()
        yield from ahead


def _take(found: PlannedPrompts, shares: Shares, draw: random.Random) -> None:
    """Take over what a window of rows shares, and draw from it."""
    for sampled in shares.settle():
        found.planned.append(sampled.planned)
        place = draw.randrange(len(found.planned))
        if len(found.sample) < SAMPLE:
            found.sample.append(sampled)
        elif place < SAMPLE:  # reservoir sampling: each row is as likely to stay
            found.sample[place] = sampled


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

"""`PlannedPrompts`: every row of an input as the engine would take it, with what would fail."""

from __future__ import annotations

import random
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from jobs.duplicates import Suspects, find_duplicates, has_one_answer
from jobs.requests import GenerationRequest
from jobs.sources import Input, SourceRow, validated
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.prompts.media_pool import THREADS as MEDIA_THREADS
from vllm_mlx.batching.prompts.prompt import MediaPrompt
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.errors import MLXBatchError
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams
from worker.flights.row_prompt import prompt_of
from worker.plan.shares import Planned, SampleRow, Shares

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
        samples: rows of the dataset that they make.
        bad_rows: those that no request can be made of.
        failures: rows that would end in error, these among them, by what is alike in their errors.
        duplicates: rows that ask what an earlier one asks.
        copied: those of them that get the answer of the earlier one, and so are not planned.
        planned: each sample of the rows that would run.
        sample: some of them, drawn at random.
    """

    rows: int = 0
    samples: int = 0
    bad_rows: int = 0
    failures: dict[tuple[str, str], Failures] = field(default_factory=dict)
    planned: list[Planned] = field(default_factory=list)
    sample: list[SampleRow] = field(default_factory=list)
    duplicates: int = 0
    copied: int = 0

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
    """How an input is read: with what holds for rows that do not say it themselves.

    Attributes:
        dedupe: rows that ask the same are answered once where one answer holds for all.
    """

    source: Input
    sampling: SamplingParams
    video: VideoParams
    n: int
    chat: bool
    dedupe: bool = True

    def rows(self) -> Iterator[SourceRow]:
        return validated(self.source, sampling=self.sampling, n=self.n, chat=self.chat)

    def request(self, request: GenerationRequest) -> Request:
        prompt = prompt_of(request, self.video, chat=self.chat)
        return Request(prompt, request.over(self.sampling))

    def duplicates(self) -> dict[int, int]:
        """Return rows that ask what an earlier one asks, whether or not one answer will do."""
        suspects = Suspects()
        for row in self.rows():
            if row.request:
                suspects.observe(row.row, row.request)
        return find_duplicates(
            self.source,
            suspects.rows(),
            sampling=self.sampling,
            video_params=self.video,
            n=self.n,
        )


def read_prompts(reading: Reading, core: EngineCore, told: Callable[[int], None]) -> PlannedPrompts:
    """Read every row, and have the engine look at it as if it was to run.

    Args:
        told: called with the number of rows read so far.

    Raises:
        InputFileError: the input can't be read.
    """
    found, draw = PlannedPrompts(), random.Random("plan")
    shares, duplicates = Shares(core), reading.duplicates()
    firsts = set(duplicates.values())
    failed: dict[int, MLXBatchError] = {}
    for row, request, first, examined in _examined(reading, core, duplicates):
        found.rows += 1
        found.samples += row.samples
        if not found.rows % TOLD_EVERY:
            told(found.rows)
        if row.request is None or request is None:
            found.bad_rows += 1
            found.fail(row, row.error or ValueError("no request"))
            continue
        found.duplicates += row.row in duplicates
        if first is not None:
            found.copied += 1
            if first in failed:
                found.fail(row, failed[first])
            continue
        try:
            shares.add(request, examined(), row.samples)
        except MLXBatchError as error:
            found.fail(row, error)
            if row.row in firsts:
                failed[row.row] = error
        if shares.is_full:
            _take(found, shares, draw)
    _take(found, shares, draw)
    return found


class _Row(NamedTuple):
    """A row with what tells its sequences; `first` is the earlier row whose answer it gets."""

    source: SourceRow
    request: Request | None
    first: int | None
    examined: Callable[[], list[Sequence]]


def _examined(reading: Reading, core: EngineCore, duplicates: Mapping[int, int]) -> Iterator[_Row]:
    """Yield rows in order; media are read ahead of it."""
    ahead: deque[_Row] = deque()
    with ThreadPoolExecutor(MEDIA_THREADS) as threads:
        for row in reading.rows():
            request, first = None, None
            examined: Callable[[], list[Sequence]] = list
            if row.request:
                request = reading.request(row.request)
                if reading.dedupe and has_one_answer(row.request, request.params):
                    first = duplicates.get(row.row)
            if request and first is None:
                examined = partial(core.examine, request)
                if isinstance(request.prompt, MediaPrompt):
                    examined = threads.submit(examined).result
            ahead.append(_Row(row, request, first, examined))
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
    classes = Counter(each.length_class for each in planned)
    if not classes:
        return []
    found = []
    for power in range(min(classes), max(classes) + 1):
        least = 1 if power == 4 else (1 << (power - 1)) + 1
        found.append((least, 1 << power, classes[power]))
    return found

"""`Shares`: what prompts that wait at the same time share, as the runner finds it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.request import Request, new_request_id
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.scheduler_config import WINDOW


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


class Shares:
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

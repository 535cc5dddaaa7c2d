"""`Shares`: what prompts that wait at the same time share, as the runner finds it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.request import Request, new_request_id
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.scheduler_config import WINDOW
from vllm_mlx.structured_outputs import StructuredOutputs


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

    @property
    def length_class(self) -> int:
        """The power of two that its prompt is told with."""
        return max(4, (self.tokens - 1).bit_length())

    @property
    def is_open(self) -> bool:
        """Whether it is not known how long its answer gets."""
        return self.least < self.most


class SampleRow(NamedTuple):
    """A row with what asks the engine for it."""

    planned: Planned
    request: Request


class Shares:
    """Has the runner's own cache of prefixes say what rows share that wait at the same time."""

    def __init__(self, core: EngineCore) -> None:
        self._prefixes = core.runner.new_prefixes()
        self._width = core.runner.bounds.max_num_seqs
        self._waiting: list[tuple[Request, Sequence]] = []
        self._encode = core.loaded.encode_label
        self._labels: dict[StructuredOutputs, tuple[int, int]] = {}

    def add(self, request: Request, sequences: list[Sequence], samples: int) -> None:
        for sequence in sequences:
            for _ in range(samples):
                each = copy(sequence)
                each.request_id = new_request_id()
                self._waiting.append((request, each))

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= WINDOW * self._width

    def settle(self) -> Iterator[SampleRow]:
        """Yield what waits, in the order in which it would start."""
        waiting, self._waiting = self._waiting, []
        if self._prefixes:
            for _, sequence in waiting:
                self._prefixes.announce(sequence)
        waiting.sort(key=lambda each: -each[1].max_tokens)
        for first in range(0, len(waiting), self._width):
            together = waiting[first : first + self._width]
            for request, sequence in together:
                yield SampleRow(self._planned(sequence), request)
            if self._prefixes:
                for _, sequence in together:
                    self._prefixes.withdraw(sequence)

    def _planned(self, sequence: Sequence) -> Planned:
        tokens, cached, shared = len(sequence.prompt_tokens), 0, 0
        if self._prefixes:
            prefix, new = self._prefixes.longest(sequence)
            shared = sum(part.end - part.start for part in new)
            cached = (prefix.end if prefix else 0) - shared
        return Planned(tokens, tokens - cached - shared, shared, *self._answer(sequence))

    def _answer(self, sequence: Sequence) -> tuple[int, int]:
        """Return the least and most tokens of an answer; those of a label where it is one."""
        params, most = sequence.params, sequence.max_tokens
        if params.ignore_eos:
            return most, most
        outputs = params.structured_outputs
        if not outputs or outputs.kind != "choice" or sequence.thinking:
            return min(params.min_tokens, most), most
        if outputs not in self._labels:
            lengths = [len(self._encode(str(label))) for label in outputs.value]
            self._labels[outputs] = min(lengths), max(lengths) + 1  # with an end token
        shortest, longest = self._labels[outputs]
        return min(shortest, most), min(longest, most)

"""`Scoring` and `Measurements`: what prefill tells of the tokens of prompts, beside computing them.

Shapes: B rows, L tokens of a piece, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Self

import mlx.core as mx

from vllm_mlx.batching.logits.logprobs import Logprobs, Measured, measure
from vllm_mlx.batching.logits.prompt_scores import read
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.prefix import Prefix


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is asked of the tokens of a row.

    Attributes:
        following: the tokens that follow each of the row's.
        top: likeliest tokens that are reported at each place.
        behind_prefix: the token behind the row's prefix, if that has kept how likely any is there.
        is_prefix: the row becomes a prefix, whose last token is followed by several.
    """

    following: list[int]
    top: int
    behind_prefix: int | None
    is_prefix: bool = False

    @classmethod
    def of(cls, sequence: Sequence, base: Prefix | None, start: int, stop: int) -> Self | None:
        """Return what a sequence asks of its tokens `[start:stop]`, which go on from a prefix."""
        if (scores := sequence.scores) is None:
            return None
        tokens = sequence.prompt_tokens
        behind = tokens[start] if base and scores.of_all else None
        return cls(tokens[start + 1 : stop + 1], scores.top, behind)

    @classmethod
    def of_prefix(cls, sequence: Sequence, part: Prefix) -> Self | None:
        """Return what a sequence asks of a prefix that is computed for it and others."""
        if sequence.scores is None or not sequence.scores.of_all:
            return None
        scoring = cls.of(sequence, part.parent, part.start, part.end)
        return scoring and replace(scoring, is_prefix=True)


class Measurements:
    """What was measured of the rows of a prefill, piece after piece.

    Args:
        asked: of each row.
        prefixes: logits `[V]` of what follows each row's prefix, if there are any.
    """

    def __init__(self, asked: list[Scoring], prefixes: Seq[mx.array | None]) -> None:
        self._asked = asked
        self._top = max(each.top for each in asked)
        self._measured: list[Measured] = []
        self._last_logits: dict[int, mx.array] = {}
        first = [each.behind_prefix for each in asked if each.behind_prefix is not None]
        if first:
            logits = mx.stack([each for each in prefixes if each is not None])
            tokens = mx.array(first)
            self._measured.append(measure(logits[:, None], tokens[:, None], self._top))

    def add(self, logits: mx.array, start: int, stop: int) -> None:
        """Measure the tokens that follow those at `[start:stop]` of each row.

        Args:
            logits: `[B, L, V]`.
        """
        following = [each.following[start:stop] for each in self._asked]
        padded = mx.array([each + [0] * (stop - start - len(each)) for each in following])
        self._measured.append(measure(logits, padded, self._top))
        for row, asked in enumerate(self._asked):
            last = len(asked.following) - 1 - start
            if asked.is_prefix and 0 <= last < stop - start:
                self._last_logits[row] = logits[row, last]

    @property
    def arrays(self) -> list[mx.array]:
        measured = [array for each in self._measured for array in each]
        return measured + list(self._last_logits.values())

    def scores(self, row: int) -> list[Logprobs]:
        """Return what was found of the token behind a row's prefix, and of those that follow."""
        asked = self._asked[row]
        size = len(asked.following) + (asked.behind_prefix is not None) - asked.is_prefix
        return read(self._measured, row, asked.top)[:size]

    def last_logits(self, row: int) -> mx.array:
        """Return the logits of what follows a row that becomes a prefix, `[V]`."""
        return self._last_logits[row]

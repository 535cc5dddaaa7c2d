"""`Masking`: what constrains the logits of the rows of a batch, in one call a step.

Shapes: S rows of the batch, R of them constrained, V vocabulary, W = V / 32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from vllm_mlx.batching.logits import Choose, LogitsProcessor
from vllm_mlx.batching.logits.constraint import Constraint
from vllm_mlx.batching.sequence import Sequence


class Masking:
    """Gives minus infinity to all that constrained rows may not say.

    Args:
        constrained: by their rows' places in the batch.
    """

    def __init__(self, constrained: Mapping[int, Constraint]) -> None:
        self._constraints = list(constrained.values())
        self._places = mx.array(list(constrained))
        self._is_all = list(constrained) == list(range(len(constrained)))
        self._filled: mx.array | None = None

    def fill(self) -> None:
        """Find what may be next, behind the tokens that the constraints have taken by now.

        Another thread may do it while a step is launched: nothing else has the array yet.
        """
        self._filled = _allowed(self._constraints)

    def __call__(self, logits: mx.array) -> mx.array:
        """Return logits `[S, V]` of a step; each one is filled anew."""
        filled, self._filled = self._filled, None
        allowed = _allowed(self._constraints) if filled is None else filled
        if self._is_all and len(self._constraints) == logits.shape[0]:
            return _masked(logits, allowed)
        only = mx.array(logits)  # what is reported beside the tokens is of all of them
        only[self._places] = _masked(only[self._places], allowed)
        return only


def make_mask(rows: Mapping[int, Sequence]) -> Masking | None:
    """Return what masks logits for these rows, by their places; None if none is constrained."""
    constrained = {at: row.constraint for at, row in rows.items() if row.constraint}
    return Masking(constrained) if constrained else None


def masked(choose: Choose, mask: Masking | None) -> Choose:
    """Return what chooses among what a mask leaves; without one, as ever."""
    if mask is None:
        return choose
    return lambda logits: choose(mask(logits))


def _allowed(constraints: list[Constraint]) -> mx.array:
    """Return a bit for each token that may be next: int32 `[R, W]`."""
    grammars = constraints[0].grammars
    mask = grammars.new_mask(len(constraints))
    matchers = [(matcher, at) for at, each in enumerate(constraints) if (matcher := each.matcher)]
    if matchers:
        grammars.fill(matchers, mask)
        for _, at in matchers:
            if not constraints[at].check_mask(mask[at]):
                mask[at] = -1  # its row ends with the error
    for row, each in zip(mask, constraints, strict=True):
        if openers := each.openers:
            if each.matcher is None:
                row[:] = 0
            for token in openers:
                row.view(np.uint32)[token // 32] |= np.uint32(1 << token % 32)
    return mx.array(mask)


@mx.compile
def _masked(logits: mx.array, allowed: mx.array) -> mx.array:
    bits = (allowed[:, :, None] >> mx.arange(32, dtype=mx.int32)) & 1
    bits = bits.reshape(logits.shape[0], -1)[:, : logits.shape[1]]
    return mx.where(bits == 1, logits, mx.array(-mx.inf, dtype=logits.dtype))


def take_last(sequence: Sequence) -> list[LogitsProcessor]:
    """Return what shows a row's constraint each token before the next one is chosen.

    It is for mlx-lm's generators, which call it with all tokens of prompt and answer.
    """
    constraint = sequence.constraint
    if constraint is None:
        return []
    prompt = len(sequence.prompt_tokens)

    def process(tokens: mx.array, logits: mx.array) -> mx.array:
        if tokens.size > prompt:
            last: Any = tokens[-1].item()
            constraint.take(tokens.size - prompt - 1, last)
        return logits

    return [process]


def take_all(rows: Iterable[tuple[int, Sequence]], tokens: list[int]) -> None:
    """Show the constraints of these rows, by places in `tokens`, the token after their output."""
    for at, sequence in rows:
        if sequence.constraint and tokens[at] >= 0:
            sequence.constraint.take(len(sequence.output_tokens), tokens[at])

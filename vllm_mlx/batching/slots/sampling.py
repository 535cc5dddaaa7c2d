"""`BatchSampler`: the next token of every slot, sampled in one call a step.

Shapes: S slots, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.draws import Sampling, make_choose
from vllm_mlx.batching.slots.memory import resize_rows

PENALTY_CONTEXT = 20
"""Tokens back that a repetition penalty reaches, the prompt's included: mlx-lm's default."""


class Sampled(NamedTuple):
    """The tokens that one step chose, as arrays that may still be computing.

    Attributes:
        tokens: int32 `[S]`; -1 where the logits are not finite.
        report: if a row asked, log-probabilities of the tokens, `[S]`, and of the k likeliest, in
            no order: their ids and their log-probabilities, `[S, k]` each.
    """

    tokens: mx.array
    report: tuple[mx.array, mx.array, mx.array] | None = None


class BatchSampler:
    """Samples for the sequences in its slots."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows: dict[int, Sequence] = {}
        self._generators: dict[int, random.Random] = {}
        self._recent: mx.array | None = None
        self._plan: Callable[[mx.array], Sampled] | None = None

    def join(self, slot: int, slots: int, sequence: Sequence) -> None:
        """Put a sequence into a slot of `slots`."""
        self._rows[slot] = sequence
        self._plan = None
        if sequence.seed is not None:
            self._generators[slot] = random.Random(sequence.seed)
        if sequence.params.repetition_penalty != 1.0:
            context = sequence.prompt_tokens[-PENALTY_CONTEXT:]
            context = [context[0]] * (PENALTY_CONTEXT - len(context)) + context
            if self._recent is None:
                self._recent = mx.zeros((slots, PENALTY_CONTEXT), dtype=mx.int32)
            self._recent[slot] = mx.array(context, dtype=mx.int32)

    def leave(self, slot: int) -> None:
        self._rows.pop(slot, None)
        self._generators.pop(slot, None)
        self._plan = None

    def resize(self, moves: dict[int, int], width: int) -> None:
        """Move rows as the ring does (see `SlotRing.resized`)."""
        for old, new in moves.items():
            self._rows[new] = self._rows.pop(old)
            if old in self._generators:
                self._generators[new] = self._generators.pop(old)
        if self._recent is not None:
            self._recent = resize_rows(self._recent, moves, width)
        self._plan = None

    def __call__(self, logits: mx.array) -> Sampled:
        """Choose from logits `[S, V]`."""
        if self._plan is None:
            self._plan = self._make_plan()
        sampled = self._plan(logits)
        if self._recent is not None:
            self._recent = mx.concatenate([self._recent[:, 1:], sampled.tokens[:, None]], axis=1)
        return sampled

    def _make_plan(self) -> Callable[[mx.array], Sampled]:
        """Decide once what the present rows need; the steps until the next change only do it."""
        penalize = self._make_penalty()
        choose = make_choose(
            {at: Sampling(self._rows[at].params, each) for at, each in self._generators.items()},
            self._vocab_size,
        )
        report = self._make_report()

        def sample(logits: mx.array) -> Sampled:
            shaped = penalize(logits)
            finite = mx.isfinite(shaped.max(axis=-1))  # an infinity or NaN anywhere shows there
            return report(logits, mx.where(finite, choose(shaped), -1))

        return sample

    def _make_penalty(self) -> Callable[[mx.array], mx.array]:
        penalties = {slot: row.params.repetition_penalty for slot, row in self._rows.items()}
        if all(penalty == 1.0 for penalty in penalties.values()):
            self._recent = None
            return lambda logits: logits

        def penalize(logits: mx.array) -> mx.array:
            assert self._recent is not None
            factor = mx.array([penalties.get(slot, 1.0) for slot in range(logits.shape[0])])
            factor = factor[:, None].astype(logits.dtype)
            chosen = mx.take_along_axis(logits, self._recent, axis=-1)
            chosen = mx.where(chosen < 0, chosen * factor, chosen / factor)
            return mx.put_along_axis(logits, self._recent, chosen, axis=-1)

        return penalize

    def _make_report(self) -> Callable[[mx.array, mx.array], Sampled]:
        wanted = [row.params.logprobs for row in self._rows.values()]
        most = max((count for count in wanted if count is not None), default=None)
        if most is None:
            return lambda _, tokens: Sampled(tokens)

        def report(logits: mx.array, tokens: mx.array) -> Sampled:
            logits = logits.astype(mx.float32)
            total = mx.logsumexp(logits, axis=-1, keepdims=True)
            chosen = mx.take_along_axis(logits, mx.maximum(tokens, 0)[:, None], axis=-1) - total
            top = mx.zeros((logits.shape[0], 0), mx.uint32)
            if most:
                kth = min(most, logits.shape[-1] - 1)
                top = mx.argpartition(-logits, kth, axis=-1)[:, :most]
            values = mx.take_along_axis(logits, top, axis=-1) - total
            return Sampled(tokens, (chosen[:, 0], top, values))

        return report

"""`BatchSampler`: the next token of every slot, sampled in one call a step.

Each row has its own generator and draws one number a token, so with a seed its text depends on
the row alone. Shapes: S slots, V vocabulary, R rows that sample, K candidates.

Filters and their order are mlx-lm's: top-p, min-p, top-k, each on the distribution at temperature
1, then the temperature. All three keep the likeliest tokens, so they are one cut.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from vllm_mlx import platform
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.cache import resize_rows

PENALTY_CONTEXT = 20
"""Tokens back that a repetition penalty reaches, the prompt's included: mlx-lm's default."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one step chose; arrays that may still be computing.

    Attributes:
        tokens: int32 `[S]`; -1 where the logits are not finite.
        logprobs: those of the tokens, `[S]`, if a row asked.
        top_tokens, top_logprobs: the likeliest, `[S, k]`, in no order.
    """

    tokens: mx.array
    logprobs: mx.array | None = None
    top_tokens: mx.array | None = None
    top_logprobs: mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        every = (self.tokens, self.logprobs, self.top_tokens, self.top_logprobs)
        return [array for array in every if array is not None]


class BatchSampler:
    """Samples for the sequences in its slots."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._exp = platform.operations().exp
        self._rows: dict[int, Sequence] = {}
        self._generators: dict[int, random.Random] = {}
        self._recent: mx.array | None = None
        self._plan: Callable[[mx.array], Sampled] | None = None

    def join(self, slot: int, slots: int, sequence: Sequence) -> None:
        """A sequence takes a slot of `slots`."""
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
        """Decide once what the rows of now need; the steps until the next change just do it."""
        penalize = self._make_penalty()
        draws = self._make_draws()
        report = self._make_report()

        def sample(logits: mx.array) -> Sampled:
            shaped = penalize(logits)
            tokens = mx.argmax(shaped, axis=-1).astype(mx.int32)
            for slots, draw in draws:
                tokens[slots] = draw(shaped)
            finite = mx.isfinite(mx.take_along_axis(shaped, tokens[:, None], axis=-1)[:, 0])
            return report(logits, mx.where(finite, tokens, -1))

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

    def _make_draws(self) -> list[tuple[mx.array, Callable[[mx.array], mx.array]]]:
        """Rows that sample, in two kinds: with a filter and without."""
        filtered = [s for s in self._generators if _is_filtered(self._rows[s], self._vocab_size)]
        plain = [s for s in self._generators if s not in set(filtered)]
        kinds = ((filtered, self._make_filtered), (plain, self._make_unfiltered))
        return [(mx.array(slots), make(slots)) for slots, make in kinds if slots]

    def _make_unfiltered(self, slots: list[int]) -> Callable[[mx.array], mx.array]:
        scale = 1.0 / _column([self._rows[slot].params.temperature for slot in slots])
        rows = mx.array(slots)

        def draw(logits: mx.array) -> mx.array:
            scaled = logits[rows].astype(mx.float32) * scale
            weights = self._exp(scaled - scaled.max(axis=-1, keepdims=True))
            return _inverse_cdf(weights, self._uniforms(slots))

        return draw

    def _make_filtered(self, slots: list[int]) -> Callable[[mx.array], mx.array]:
        params = [self._rows[slot].params for slot in slots]
        rows = mx.array(slots)
        scale = 1.0 / _column([each.temperature for each in params])
        top_p = _column([each.top_p for each in params])
        min_logprob = _column([math.log(each.min_p or 1e-38) for each in params])
        top_k = _column([float(each.top_k or self._vocab_size) for each in params])
        largest_k = max(each.top_k for each in params)

        def covered(likeliest: mx.array) -> mx.array:
            by_mass = self._exp(likeliest).sum(axis=-1, keepdims=True) >= top_p
            by_rank = top_k <= likeliest.shape[1]
            return by_mass | by_rank | (likeliest[:, -1:] < likeliest[:, :1] + min_logprob)

        def draw(logits: mx.array) -> mx.array:
            logits = logits[rows].astype(mx.float32)
            highest = logits.max(axis=-1, keepdims=True)
            total = self._exp(logits - highest).sum(axis=-1, keepdims=True)
            logprobs = logits - highest - mx.log(total)
            likeliest, logprobs = self._candidates(logprobs, covered, largest_k)
            mass = self._exp(logprobs)
            before = mx.cumsum(mass, axis=-1) - mass  # what all likelier tokens have
            rank = mx.arange(logprobs.shape[1])[None]
            cut = (before < top_p) & (logprobs >= logprobs[:, :1] + min_logprob) & (rank < top_k)
            cut = cut | (rank == 0)
            weights = cut * self._exp((logprobs - logprobs[:, :1]) * scale)
            chosen = _inverse_cdf(weights, self._uniforms(slots))
            return mx.take_along_axis(likeliest, chosen[:, None], axis=-1)[:, 0].astype(mx.int32)

        return draw

    def _candidates(
        self, logprobs: mx.array, covered: Callable[[mx.array], mx.array], largest_k: int
    ) -> tuple[mx.array, mx.array]:
        """Token ids and log-probabilities `[R, K]`, likeliest first.

        Where sorting the vocabulary is dear, the few likeliest are looked at first; they are
        enough unless some row's distribution is very flat.
        """
        V = logprobs.shape[-1]
        few = platform.sampling_candidates()
        if few is not None and max(few, largest_k) < V // 2:
            few = max(few, largest_k)
            tokens = mx.argpartition(-logprobs, few, axis=-1)[:, :few]
            tokens, likeliest = _sorted(tokens, mx.take_along_axis(logprobs, tokens, axis=-1))
            if covered(likeliest).all().item():
                return tokens, likeliest
        tokens = mx.argsort(-logprobs, axis=-1)
        return tokens, mx.take_along_axis(logprobs, tokens, axis=-1)

    def _make_report(self) -> Callable[[mx.array, mx.array], Sampled]:
        wanted = [row.params.logprobs for row in self._rows.values()]
        most = max((count for count in wanted if count is not None), default=None)
        if most is None:
            return lambda _, tokens: Sampled(tokens)

        def report(logits: mx.array, tokens: mx.array) -> Sampled:
            logits = logits.astype(mx.float32)
            total = mx.logsumexp(logits, axis=-1, keepdims=True)
            chosen = mx.take_along_axis(logits, mx.maximum(tokens, 0)[:, None], axis=-1) - total
            if not most:
                return Sampled(tokens, chosen[:, 0])
            kth = min(most, logits.shape[-1] - 1)
            top = mx.argpartition(-logits, kth, axis=-1)[:, :most]
            return Sampled(
                tokens, chosen[:, 0], top, mx.take_along_axis(logits, top, axis=-1) - total
            )

        return report

    def _uniforms(self, slots: list[int]) -> mx.array:
        return _column([self._generators[slot].random() for slot in slots])


def _is_filtered(sequence: Sequence, vocab_size: int) -> bool:
    params = sequence.params
    return params.top_p < 1.0 or params.min_p > 0.0 or 0 < params.top_k < vocab_size


def _sorted(tokens: mx.array, logprobs: mx.array) -> tuple[mx.array, mx.array]:
    order = mx.argsort(-logprobs, axis=-1)
    tokens = mx.take_along_axis(tokens, order, axis=-1)
    return tokens, mx.take_along_axis(logprobs, order, axis=-1)


def _inverse_cdf(weights: mx.array, uniforms: mx.array) -> mx.array:
    """The first index whose cumulative weight exceeds `uniforms` times the total: `[R]`."""
    cumulative = mx.cumsum(weights, axis=-1)
    total = cumulative[:, -1:]
    index = (cumulative <= uniforms * total).sum(axis=-1)
    last = (cumulative < total).sum(axis=-1)  # rounding may bring the product up to the total
    return mx.minimum(index, last).astype(mx.int32)


def _column(values: list[float]) -> mx.array:
    return mx.array(values, dtype=mx.float32)[:, None]

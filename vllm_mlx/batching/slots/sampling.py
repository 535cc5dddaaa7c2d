"""`BatchSampler`: the next token of every slot, sampled in one call a step.

Shapes: S slots, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from vllm_mlx.batching.logits.logprobs import Measured, measure
from vllm_mlx.batching.logits.masks import Masking, make_mask, masked
from vllm_mlx.batching.logits.penalty import biases_of, has_penalties
from vllm_mlx.batching.logits.thought_budgets import ThoughtBudgets
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.draws import Sampling, make_choose
from vllm_mlx.batching.slots.filters import column
from vllm_mlx.batching.slots.memory import resize_rows
from vllm_mlx.sampling_params import SamplingParams

PENALTY_CONTEXT = 20
"""Tokens back that a repetition penalty reaches, the prompt's included: mlx-lm's default."""

_FREE = SamplingParams.of()  # of a slot that nobody reads


class Sampled(NamedTuple):
    """The tokens that one step chose, as arrays that may still be computing.

    Attributes:
        tokens: int32 `[S]`; -1 where the logits are not finite.
        report: if a row asked, log-probabilities of the tokens, `[S]`, and of the k likeliest.
    """

    tokens: mx.array
    report: Measured | None = None


class BatchSampler:
    """Samples for the sequences in its slots."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows: dict[int, Sequence] = {}
        self._generators: dict[int, random.Random] = {}
        self._recent: mx.array | None = None
        self._counts: mx.array | None = None  # [S, V], how often tokens were generated
        self._steps = 0
        self._joined: dict[int, int] = {}  # the step of each row's first token
        self._plan_ends: int | None = None  # the step that needs another plan
        self._budgets = ThoughtBudgets()
        self._plan: Callable[[mx.array], Sampled] | None = None
        self._masking: Masking | None = None  # the plan's
        self._constrained = 0  # rows

    def join(self, slot: int, slots: int, sequence: Sequence) -> None:
        """Put a sequence into a slot of `slots`."""
        self._rows[slot] = sequence
        self._joined[slot] = self._steps
        self._constrained += sequence.constraint is not None
        self._plan = None
        if sequence.seed is not None:
            self._generators[slot] = random.Random(sequence.seed)
        if sequence.params.repetition_penalty != 1.0:
            context = sequence.prompt_tokens[-PENALTY_CONTEXT:]
            context = [context[0]] * (PENALTY_CONTEXT - len(context)) + context
            if self._recent is None:
                self._recent = mx.zeros((slots, PENALTY_CONTEXT), dtype=mx.int32)
            self._recent[slot] = mx.array(context, dtype=mx.int32)
        if has_penalties(sequence.params):
            if self._counts is None:
                self._counts = mx.zeros((slots, self._vocab_size))
            self._counts[slot] = 0

    def leave(self, slot: int) -> None:
        left = self._rows.pop(slot, None)
        self._constrained -= left is not None and left.constraint is not None
        self._generators.pop(slot, None)
        self._plan = None

    def resize(self, moves: dict[int, int], width: int) -> None:
        """Move rows as the ring does (see `SlotRing.resized`)."""
        for old, new in moves.items():
            self._rows[new] = self._rows.pop(old)
            self._joined[new] = self._joined.pop(old)
            if old in self._generators:
                self._generators[new] = self._generators.pop(old)
        if self._recent is not None:
            self._recent = resize_rows(self._recent, moves, width)
        if self._counts is not None:
            self._counts = resize_rows(self._counts, moves, width)
        self._plan = None

    @property
    def is_constrained(self) -> bool:
        """Whether a row's next token depends on what its last one was to a grammar."""
        return self._constrained > 0

    def prepare(self) -> None:
        """Decide how the next step samples, unless that is known."""
        if self._plan is None or self._steps == self._plan_ends:
            self._plan = self._make_plan()

    def fill_mask(self) -> None:
        """Find what constrained rows may say in the step that is prepared."""
        if self._masking:
            self._masking.fill()

    def __call__(self, logits: mx.array) -> Sampled:
        """Choose from logits `[S, V]`."""
        self.prepare()
        assert self._plan
        self._steps += 1
        sampled = self._plan(logits)
        if self._recent is not None:
            self._recent = mx.concatenate([self._recent[:, 1:], sampled.tokens[:, None]], axis=1)
        if self._counts is not None:
            places = mx.arange(self._counts.shape[0])
            self._counts = self._counts.at[places, mx.maximum(sampled.tokens, 0)].add(1)
        return sampled

    def _make_plan(self) -> Callable[[mx.array], Sampled]:
        """Decide once what the present rows need; the steps until the next change only do it."""
        bias, repeat, penalize = self._make_bias(), self._make_repetition(), self._make_penalties()
        choose = make_choose(
            {at: Sampling(self._rows[at].params, each) for at, each in self._generators.items()},
            self._vocab_size,
        )
        self._masking = make_mask(self._rows)
        choose = self._budgets.bounded(masked(choose, self._masking), self._rows)
        output = self._make_output()

        def sample(logits: mx.array) -> Sampled:
            shaped = penalize(repeat(bias(logits), logits.dtype))
            finite = mx.isfinite(shaped.max(axis=-1))  # an infinity or NaN anywhere shows there
            return output(logits, mx.where(finite, choose(shaped), -1))

        return sample

    def _make_bias(self) -> Callable[[mx.array], mx.array]:
        drawn = {slot: self._steps - self._joined[slot] for slot in self._rows}
        held = (row.params.min_tokens - drawn[slot] for slot, row in self._rows.items())
        next_freed = min((left for left in held if left > 0), default=None)
        self._plan_ends = None if next_freed is None else self._steps + next_freed
        biases = [
            (slot, token, value)
            for slot, row in self._rows.items()
            for token, value in biases_of(row, drawn[slot], self._vocab_size).items()
        ]
        if not biases:
            return lambda logits: logits
        slots, tokens, values = map(mx.array, zip(*biases, strict=True))

        def bias(logits: mx.array) -> mx.array:
            return logits.astype(mx.float32).at[slots, tokens].add(values)

        return bias

    def _make_repetition(self) -> Callable[[mx.array, mx.Dtype], mx.array]:
        penalties = {slot: row.params.repetition_penalty for slot, row in self._rows.items()}
        if all(penalty == 1.0 for penalty in penalties.values()):
            self._recent = None
            return lambda logits, _: logits

        def penalize(logits: mx.array, dtype: mx.Dtype) -> mx.array:
            assert self._recent is not None
            factor = mx.array([penalties.get(slot, 1.0) for slot in range(logits.shape[0])])
            factor = factor[:, None].astype(dtype)
            # In the model's own type: a biased neighbour must not change what is rounded.
            chosen = mx.take_along_axis(logits, self._recent, axis=-1).astype(dtype)
            chosen = mx.where(chosen < 0, chosen * factor, chosen / factor)
            return mx.put_along_axis(logits, self._recent, chosen.astype(logits.dtype), axis=-1)

        return penalize

    def _make_penalties(self) -> Callable[[mx.array], mx.array]:
        """Return what penalizes tokens for having been generated, as OpenAI and vLLM define it."""
        if not any(has_penalties(row.params) for row in self._rows.values()):
            self._counts = None
            return lambda logits: logits
        assert self._counts is not None
        rows = map(self._rows.get, range(self._counts.shape[0]))
        params = [row.params if row else _FREE for row in rows]
        per_token = column([each.presence_penalty for each in params])
        per_time = column([each.frequency_penalty for each in params])

        def penalize(logits: mx.array) -> mx.array:
            counts = self._counts
            assert counts is not None
            return logits.astype(mx.float32) - per_time * counts - per_token * (counts > 0)

        return penalize

    def _make_output(self) -> Callable[[mx.array, mx.array], Sampled]:
        wanted = [row.params.logprobs for row in self._rows.values()]
        most = max((count for count in wanted if count is not None), default=None)
        if most is None:
            return lambda _, tokens: Sampled(tokens)

        def measured(logits: mx.array, tokens: mx.array) -> Sampled:
            return Sampled(tokens, measure(logits, mx.maximum(tokens, 0), most))

        return measured

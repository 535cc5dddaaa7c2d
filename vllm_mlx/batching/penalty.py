"""What changes a row's logits before sampling; for the fallback runners, as functions a row."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
from mlx_lm.sample_utils import make_logits_processors

from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.sampling_params import SamplingParams

LogitsProcessor = Callable[[mx.array, mx.array], mx.array]


def has_penalties(params: SamplingParams) -> bool:
    """Whether tokens are penalized for having been generated."""
    return params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def biases_of(sequence: Sequence, drawn: int, vocab_size: int) -> dict[int, float]:
    """Return what is added to the logits, by token, once so many tokens were drawn."""
    biases = dict(sequence.params.logit_bias or {})
    if drawn < sequence.params.min_tokens:
        ends = (token for token in sequence.end_token_ids if token < vocab_size)
        biases |= dict.fromkeys(ends, -math.inf)
    return biases


def make_processors(sequence: Sequence) -> list[LogitsProcessor]:
    """Return what changes a row's logits, in the order of slots; it is called once a token."""
    params = sequence.params
    processors: list[LogitsProcessor] = []
    if params.logit_bias or params.min_tokens:
        processors.append(_make_bias(sequence))
    if params.repetition_penalty != 1.0:
        processors += make_logits_processors(repetition_penalty=params.repetition_penalty)
    if has_penalties(params):
        processors.append(_make_penalties(params))
    return processors


def _make_bias(sequence: Sequence) -> LogitsProcessor:
    drawn, least = 0, sequence.params.min_tokens

    def prepare(vocab_size: int) -> tuple[mx.array, mx.array]:
        biases = biases_of(sequence, drawn, vocab_size)
        return mx.array(list(biases), dtype=mx.int32), mx.array(list(biases.values()))

    prepared: tuple[mx.array, mx.array] | None = None

    def bias(_: mx.array, logits: mx.array) -> mx.array:
        nonlocal drawn, prepared
        if prepared is None or drawn == least:
            prepared = prepare(logits.shape[-1])
        drawn += 1
        tokens, values = prepared
        if not tokens.size:
            return logits
        return logits.astype(mx.float32).at[:, tokens].add(values).astype(logits.dtype)

    return bias


def _make_penalties(params: SamplingParams) -> LogitsProcessor:
    per_token, per_time = params.presence_penalty, params.frequency_penalty
    counts: mx.array | None = None

    def penalize(tokens: mx.array, logits: mx.array) -> mx.array:
        nonlocal counts
        counts = mx.zeros((logits.shape[-1],)) if counts is None else counts.at[tokens[-1:]].add(1)
        shaped = logits.astype(mx.float32) - per_time * counts - per_token * (counts > 0)
        # A batch of mlx-lm's would take a larger type to the rows beside it.
        return shaped.astype(logits.dtype)

    return penalize

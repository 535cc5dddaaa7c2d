"""What changes logits before sampling, and `Shaping`, which does so in fallback runners."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import mlx.core as mx
from mlx_lm.sample_utils import make_logits_processors

from vllm_mlx.batching.logits import Choose, LogitsProcessor
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.sampling_params import SamplingParams


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
    """Return what changes a row's logits before they are log-probabilities: mlx-lm's penalty."""
    penalty = sequence.params.repetition_penalty
    return [] if penalty == 1.0 else make_logits_processors(repetition_penalty=penalty)


class Shaping:
    """Biases and penalties of one row whose tokens a fallback runner chooses, as slots have them.

    Adding to log-probabilities is adding to logits, and what is reported stays the model's own.
    """

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        self._drawn = 0
        self._biases: tuple[mx.array, mx.array] | None = None
        self._counts: mx.array | None = None

    @classmethod
    def of(cls, sequence: Sequence) -> Self | None:
        """Return that of a row; None if it has none."""
        params = sequence.params
        is_shaped = params.logit_bias or params.min_tokens or has_penalties(params)
        return cls(sequence) if is_shaped else None

    def shape(self, logprobs: mx.array) -> mx.array:
        """Return what the next token is chosen by: float32 `[V]`."""
        params, size = self._sequence.params, logprobs.shape[-1]
        if self._drawn in (0, params.min_tokens):
            biases = biases_of(self._sequence, self._drawn, size)
            self._biases = (mx.array([*biases]), mx.array([*biases.values()])) if biases else None
        if self._biases:
            logprobs = logprobs.at[self._biases[0]].add(self._biases[1])
        if self._counts is not None:
            logprobs = logprobs - params.frequency_penalty * self._counts
            logprobs = logprobs - params.presence_penalty * (self._counts > 0)
        elif has_penalties(params):
            self._counts = mx.zeros((size,))
        return logprobs

    def take(self, token: mx.array) -> None:
        """Take note of the token that was chosen."""
        self._drawn += 1
        if self._counts is not None:
            self._counts = self._counts.at[mx.maximum(token, 0)].add(1)


def shaped(choose: Choose, shapings: Mapping[int, Shaping | None]) -> Choose:
    """Return what chooses by shaped log-probabilities; without any, as ever.

    Args:
        shapings: by the rows' places in the batch.
    """
    given = {at: shaping for at, shaping in shapings.items() if shaping}
    if not given:
        return choose

    def choose_shaped(logprobs: mx.array) -> mx.array:
        logprobs = logprobs.astype(mx.float32)
        for at, shaping in given.items():
            logprobs[at] = shaping.shape(logprobs[at])
        tokens = choose(logprobs)
        for at, shaping in given.items():
            shaping.take(tokens[at])
        return tokens

    return choose_shaped

"""`Filters`: top-p, min-p, top-k and temperature of rows that sample, in a few operations.

Filters and their order are mlx-lm's: top-p, min-p, top-k, each on the distribution at temperature
1, then the temperature. All three keep the likeliest tokens, so they are one cut.
Shapes: R rows, K candidates, likeliest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx

from vllm_mlx.sampling_params import SamplingParams


class Filters(NamedTuple):
    """The filters of R rows, each `[R, 1]`; `exp` is the backend's."""

    top_p: mx.array
    min_logprob: mx.array
    top_k: mx.array
    scale: mx.array
    exp: Callable[[mx.array], mx.array]

    @classmethod
    def of(
        cls, params: Sequence[SamplingParams], vocab_size: int, exp: Callable[[mx.array], mx.array]
    ) -> Filters:
        return cls(
            top_p=column([each.top_p for each in params]),
            min_logprob=column([math.log(each.min_p or 1e-38) for each in params]),
            top_k=column([float(min(each.top_k or vocab_size, vocab_size)) for each in params]),
            scale=1.0 / column([each.temperature for each in params]),
            exp=exp,
        )

    def rows(self, rows: mx.array) -> Filters:
        """Return the filters of some rows."""
        top_p, min_logprob, top_k, scale, exp = self
        return Filters(top_p[rows], min_logprob[rows], top_k[rows], scale[rows], exp)

    def covered(self, logprobs: mx.array) -> mx.array:
        """Whether these candidates are all that a row may choose from: bool `[R]`."""
        by_mass = self.exp(logprobs).sum(axis=-1, keepdims=True) >= self.top_p
        by_rank = self.top_k <= logprobs.shape[1]
        by_share = logprobs[:, -1:] < logprobs[:, :1] + self.min_logprob
        return (by_mass | by_rank | by_share)[:, 0]

    def choose(self, tokens: mx.array, logprobs: mx.array, uniforms: mx.array) -> mx.array:
        """Draw one of the candidates `[R, K]` with numbers `[R, 1]` from 0 to 1: int32 `[R]`."""
        mass = self.exp(logprobs)
        before = mx.cumsum(mass, axis=-1) - mass  # what all likelier tokens have
        rank = mx.arange(logprobs.shape[1])[None]
        likely = logprobs >= logprobs[:, :1] + self.min_logprob
        cut = (before < self.top_p) & likely & (rank < self.top_k) | (rank == 0)
        weights = cut * self.exp((logprobs - logprobs[:, :1]) * self.scale)
        chosen = inverse_cdf(weights, uniforms)
        return mx.take_along_axis(tokens, chosen[:, None], axis=-1)[:, 0].astype(mx.int32)


def inverse_cdf(weights: mx.array, uniforms: mx.array) -> mx.array:
    """Return the first index whose cumulative weight is over `uniforms` times the total: `[R]`."""
    cumulative = mx.cumsum(weights, axis=-1)
    total = cumulative[:, -1:]
    index = (cumulative <= uniforms * total).sum(axis=-1)
    last = (cumulative < total).sum(axis=-1)  # rounding may bring the product up to the total
    return mx.minimum(index, last).astype(mx.int32)


def column(values: list[float]) -> mx.array:
    return mx.array(values, dtype=mx.float32)[:, None]

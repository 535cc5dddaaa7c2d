"""`Logprobs`: how likely the model found a token, and which ones it found likeliest."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx


class Measured(NamedTuple):
    """Log-probabilities at places `[...]` of logits, as arrays that may still be computing.

    Attributes:
        chosen: those of the tokens asked about, `[...]`.
        ids, values: the k likeliest tokens, in no order, and their log-probabilities, `[..., k]`.
    """

    chosen: mx.array
    ids: mx.array
    values: mx.array


def measure(logits: mx.array, tokens: mx.array, most: int) -> Measured:
    """Return how likely tokens `[...]` are by logits `[..., V]`, and the `most` likeliest."""
    logits = logits.astype(mx.float32)
    total = mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logits, tokens[..., None], axis=-1) - total
    ids = mx.zeros((*tokens.shape, 0), mx.uint32)
    if most:
        kth = min(most, logits.shape[-1] - 1)
        ids = mx.argpartition(-logits, kth, axis=-1)[..., :most]
    values = mx.take_along_axis(logits, ids, axis=-1) - total
    return Measured(chosen[..., 0], ids, values)


class Logprobs(NamedTuple):
    """Log-probability of a token, and `(token id, log-probability)` of the likeliest."""

    chosen: float
    top: list[tuple[int, float]]

    @classmethod
    def read(cls, chosen: float, ids: list[int], values: list[float], count: int) -> Logprobs:
        """Return what was measured at one place, with `count` of the likeliest."""
        likeliest = sorted(zip(ids, values, strict=True), key=lambda pair: -pair[1])
        return cls(chosen, likeliest[:count])

    @classmethod
    def of(cls, chosen: float, logprobs: mx.array, count: int) -> Logprobs:
        """Return `chosen` with `count` of the likeliest of all tokens, `[V]`."""
        if not count:
            return cls(chosen, [])
        likeliest = mx.argsort(-logprobs.astype(mx.float32))[:count]
        ids: Any = likeliest.tolist()
        values: Any = logprobs[likeliest].tolist()
        return cls(chosen, list(zip(ids, values, strict=True)))

"""`Logprobs`: how likely the model found a token, and which ones it found likeliest."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx


class Logprobs(NamedTuple):
    """Log-probability of a token, and `(token id, log-probability)` of the likeliest."""

    chosen: float
    top: list[tuple[int, float]]

    @classmethod
    def of(cls, chosen: float, logprobs: mx.array, count: int) -> Logprobs:
        """Return `chosen` with `count` of the likeliest of all tokens, `[V]`."""
        if not count:
            return cls(chosen, [])
        likeliest = mx.argsort(-logprobs.astype(mx.float32))[:count]
        ids: Any = likeliest.tolist()
        values: Any = logprobs[likeliest].tolist()
        return cls(chosen, list(zip(ids, values, strict=True)))

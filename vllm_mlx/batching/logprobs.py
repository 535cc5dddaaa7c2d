"""`Logprobs`: how likely the model found a token, and which ones it found likeliest."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx


class Logprobs(NamedTuple):
    """Log-probability of a token, and `(token id, log-probability)` of the likeliest."""

    chosen: float
    top: list[tuple[int, float]]

    @classmethod
    def of(cls, logprobs: mx.array, token: int, count: int) -> Logprobs:
        """From the log-probabilities `[V]` of all tokens; `count` of the likeliest."""
        logprobs = logprobs.astype(mx.float32)
        top: list[tuple[int, float]] = []
        if count:
            likeliest = mx.argsort(-logprobs)[:count]
            ids: Any = likeliest.tolist()
            values: Any = logprobs[likeliest].tolist()
            top = list(zip(ids, values, strict=True))
        chosen: Any = logprobs[token].item()
        return cls(chosen, top)

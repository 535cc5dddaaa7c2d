"""What MLX does slowly on a CPU, written in the operations that it does fast.

MLX 0.32 calls the C library once an element for `exp` (12 ns) and what is built on it, and
branches once an element for `where` (5 ns); multiplication and addition are vectorised (0.3 ns).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

if TYPE_CHECKING:
    from vllm_mlx.platform import Ring

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits
_ROUND_BITS = 0x4B400000
_EXPONENT_BIAS = 127
# Cephes' expf: a polynomial on [-ln(2)/2, ln(2)/2], relative error 2e-7.
_POLYNOMIAL = (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOWEST = -87.0  # below, the result is no normal number any more; exp(-87) is 1.6e-38

_MASKED = -1e9
"""Added to the score of what a query may not see."""
_BLOCK = 64
"""Queries of a prompt computed together."""
_SLOTS = 8
"""Slots computed together: fewer read less, and take more operations."""


def exp(x: mx.array) -> mx.array:
    """`e**x` of float32 numbers up to 88, five times as fast as `mx.exp`.

    Below -87 it is `exp(-87)`, which in a softmax is nothing.
    """
    x = mx.maximum(x, _LOWEST)
    rounded = x * _LOG2_E + _ROUND
    whole = rounded - _ROUND
    rest = x - whole * _LN2_HIGH - whole * _LN2_LOW
    series: mx.array | float = 1.9875691500e-4
    for coefficient in _POLYNOMIAL:
        series = series * rest + coefficient
    series = series * rest * rest + rest + 1.0
    exponent = (mx.view(rounded, mx.int32) - (_ROUND_BITS - _EXPONENT_BIAS)) << 23
    return series * mx.view(exponent, mx.float32)


def silu(x: mx.array) -> mx.array:
    """`x * sigmoid(x)`."""
    return x / (exp(-x) + 1.0)


def attend_slots(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, ring: Ring
) -> mx.array:
    """Attention of one query a slot: `[S, Hq, 1, D]` over `[S, Hk, C, D]`.

    In blocks of slots, each over as many columns as its longest row holds: a ring of 1,024 columns
    whose rows are 200 tokens long is mostly not read.
    """
    S, Hq, _, D = queries.shape
    Hk = keys.shape[1]
    grouped = (queries * scale).reshape(S, Hk, Hq // Hk, D)
    blocks = []
    for slots, pieces in ring.blocks(_SLOTS):
        k = [keys[slots, :, columns] for columns in pieces]
        v = [values[slots, :, columns] for columns in pieces]
        mask = [ring.added_mask[slots, :, :, columns] for columns in pieces]
        blocks.append(_attend_pieces(grouped[slots], k, v, mask))
    output = blocks[0] if len(blocks) == 1 else mx.concatenate(blocks)
    return output.reshape(S, Hq, 1, -1)


def _attend_pieces(
    queries: mx.array, keys: list[mx.array], values: list[mx.array], masks: list[mx.array]
) -> mx.array:
    """Attention over columns that lie in one piece, or in two at the ends of the ring."""
    scores = [queries @ k.swapaxes(-1, -2) + mask for k, mask in zip(keys, masks, strict=True)]
    highest = scores[0].max(axis=-1, keepdims=True)
    for other in scores[1:]:
        highest = mx.maximum(highest, other.max(axis=-1, keepdims=True))
    weights = [exp(each - highest) for each in scores]
    totals = [each.sum(axis=-1, keepdims=True) for each in weights]
    outputs = [w @ v for w, v in zip(weights, values, strict=True)]
    if len(outputs) == 1:
        return outputs[0] / totals[0]
    return (outputs[0] + outputs[1]) / (totals[0] + totals[1])


def attend_causal(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """Attention of the last L tokens: `[B, Hq, L, D]` over `[B, Hk, p + L, D]`.

    In blocks of queries, each over the keys that it may see, so half of a square is not computed.
    """
    L, K = queries.shape[2], keys.shape[2]
    blocks = []
    for start in range(0, L, _BLOCK):
        stop = min(start + _BLOCK, L)
        seen = K - L + stop
        part = queries[:, :, start:stop] * scale
        blocks.append(_block(part, keys[:, :, :seen], values[:, :, :seen]))
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)


def _block(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
    B, Hq, L, D = queries.shape
    Hk, K = keys.shape[1], keys.shape[2]
    scores = queries.reshape(B, Hk, (Hq // Hk) * L, D) @ keys.swapaxes(-1, -2)
    future = mx.arange(K)[None] > mx.arange(K - L, K)[:, None]
    scores = scores.reshape(B, Hq, L, K) + future * _MASKED
    return _weigh(scores.reshape(B, Hk, -1, K), values).reshape(B, Hq, L, -1)


def _weigh(scores: mx.array, values: mx.array) -> mx.array:
    """Softmax of the scores times the values; divided last, where there is least."""
    weights = exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights @ values) / weights.sum(axis=-1, keepdims=True)

"""What MLX does slowly on a CPU, written in the operations that it does fast.

MLX 0.32 calls the C library once an element for `exp` (12 ns) and what is built on it, and
branches once an element for `where` (5 ns); multiplication and addition are vectorised (0.3 ns).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from vllm_mlx.platform.attention import Ring, causal_mask

logger = logging.getLogger(__name__)

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits
_EXPONENT_BIAS = 127
_MANTISSA = 8388608.0  # 2**23: moves an exponent to its place in a float's bits
# Cephes' expf: a polynomial on [-ln(2)/2, ln(2)/2], relative error 2e-7.
_POLYNOMIAL = (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_HIGHEST = 88.0  # above, it overflows
_LOWEST = -87.0  # below, the result is subnormal; exp(-87) is 1.6e-38

_GELU = 2 * 0.7978845608  # 2 sqrt(2 / pi)
_GELU_CUBED = 0.044715 * _GELU

_MASKED = -1e9
"""Added to the score of what a query may not see."""
_BLOCK = 64
"""Queries of a prompt computed together."""
_SLOTS = 8
"""Slots computed together: fewer read less, and take more operations."""


def _parts(x: mx.array) -> tuple[mx.array, mx.array]:
    """`e**x` as the product of a number near 1 and a power of two, the latter as float bits."""
    x = mx.minimum(mx.maximum(x, _LOWEST), _HIGHEST)
    whole = (x * _LOG2_E + _ROUND) - _ROUND
    rest = x - whole * _LN2_HIGH - whole * _LN2_LOW
    series: mx.array | float = 1.9875691500e-4
    for coefficient in _POLYNOMIAL:
        series = series * rest + coefficient
    bits = ((whole + _EXPONENT_BIAS) * _MANTISSA).astype(mx.int32)
    return series * rest * rest + rest + 1.0, bits


def _silu_of(x: mx.array, up: mx.array, series: mx.array, power: mx.array) -> mx.array:
    return x * up / (series * power + 1.0)


@functools.cache
def _fused() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`_parts` and `_silu_of`, each as one loop over memory, if there is a compiler for that.

    One by one their operations read and write a temporary each, which takes three times as long.
    """
    fused = mx.compile(_parts, shapeless=True), mx.compile(_silu_of, shapeless=True)
    try:
        x = mx.zeros((2,))
        mx.eval(fused[0](x), fused[1](x, x, x, x))
    except (RuntimeError, ValueError) as error:
        logger.info("MLX finds no compiler here, so prompts take longer: %s", error)
        return _parts, _silu_of
    return fused


def exp(x: mx.array) -> mx.array:
    """`e**x` of float32 numbers, five times as fast as `mx.exp`, and more exact.

    Below -87 it is `exp(-87)`, negligible in a softmax, and above 88 `exp(88)`.
    """
    series, bits = _fused()[0](x)
    product: mx.array = series * mx.view(bits, mx.float32)
    return product


def argsort(x: mx.array) -> mx.array:
    """`mx.argsort` along the last axis by NumPy, which sorts with vector instructions: a row of
    49,152 numbers in 2 ms, not 5."""
    return mx.array(np.argsort(np.array(x), axis=-1).astype(np.uint32))


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """`silu(gate) * up`."""
    parts, silu_of = _fused()
    series, bits = parts(-gate)
    activated: mx.array = silu_of(gate, up, series, mx.view(bits, mx.float32))
    return activated


def silu(x: mx.array) -> mx.array:
    """`x` times its sigmoid."""
    return swiglu(x, _one())


def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """`gelu(gate) * up`, with the tanh of GELU's usual approximation as a sigmoid."""
    parts, silu_of = _fused()
    series, bits = parts(gate * (-_GELU - _GELU_CUBED * gate * gate))
    activated: mx.array = silu_of(gate, up, series, mx.view(bits, mx.float32))
    return activated


def gelu(x: mx.array) -> mx.array:
    """`geglu` of one array."""
    return geglu(x, _one())


@functools.cache
def _one() -> mx.array:
    one = mx.array(1.0)
    mx.eval(one)  # lazy constants can't be computed on another thread
    return one


def attend_slots(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    ring: Ring,
    sinks: mx.array | None = None,
) -> mx.array:
    """`attention.attend_slots`, in blocks of slots, each over as many columns as its longest row
    holds: a ring of 1,024 columns whose rows are 200 tokens long is mostly not read.
    """
    S, Hq, _, D = queries.shape
    Hk = keys.shape[1]
    grouped = (queries * scale).reshape(S, Hk, Hq // Hk, D)
    sink = None if sinks is None else sinks.reshape(1, Hk, Hq // Hk, 1)
    blocks = []
    for slots, pieces in ring.blocks(_SLOTS):
        k = [keys[slots, :, columns] for columns in pieces]
        v = [values[slots, :, columns] for columns in pieces]
        mask = [ring.added_mask[slots, :, :, columns] for columns in pieces]
        blocks.append(_attend_pieces(grouped[slots], k, v, mask, sink))
    output = blocks[0] if len(blocks) == 1 else mx.concatenate(blocks)
    return output.reshape(S, Hq, 1, -1)


def _attend_pieces(
    queries: mx.array,
    keys: list[mx.array],
    values: list[mx.array],
    masks: list[mx.array],
    sink: mx.array | None,
) -> mx.array:
    """Attention over columns that lie in one piece, or in two at the ends of the ring."""
    scores = [queries @ k.swapaxes(-1, -2) + mask for k, mask in zip(keys, masks, strict=True)]
    most = [each.max(axis=-1, keepdims=True) for each in scores]
    highest = functools.reduce(mx.maximum, most if sink is None else [*most, sink])
    weights = [exp(each - highest) for each in scores]
    totals = [each.sum(axis=-1, keepdims=True) for each in weights]
    if sink is not None:
        totals.append(exp(sink - highest))
    outputs = [w @ v for w, v in zip(weights, values, strict=True)]
    return functools.reduce(mx.add, outputs) / functools.reduce(mx.add, totals)


def attend_causal(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    window: int | None = None,
    sinks: mx.array | None = None,
) -> mx.array:
    """`attention.attend_causal`, in blocks of queries, each over the keys that it may see: half of
    a square is not computed, and of a window's band nothing beside it.
    """
    L, K = queries.shape[2], keys.shape[2]
    blocks = []
    for start in range(0, L, _BLOCK):
        stop = min(start + _BLOCK, L)
        seen = K - L + stop
        first = 0 if window is None else max(0, K - L + start + 1 - window)
        part = queries[:, :, start:stop] * scale
        k, v = keys[:, :, first:seen], values[:, :, first:seen]
        blocks.append(_block(part, k, v, window, sinks))
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)


def _block(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    window: int | None,
    sinks: mx.array | None,
) -> mx.array:
    B, Hq, L, D = queries.shape
    Hk, K = keys.shape[1], keys.shape[2]
    scores = queries.reshape(B, Hk, (Hq // Hk) * L, D) @ keys.swapaxes(-1, -2)
    hidden = mx.logical_not(causal_mask(L, K, window))
    scores = scores.reshape(B, Hq, L, K) + hidden * _MASKED
    highest = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        sink = sinks.reshape(1, Hq, 1, 1)
        highest = mx.maximum(highest, sink)
    weights = exp(scores - highest)
    totals = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        totals = totals + exp(sink - highest)
    # Divided last, where there is least.
    attended = weights.reshape(B, Hk, -1, K) @ values
    return attended.reshape(B, Hq, L, -1) / totals

"""MLX's own attention, as Metal uses it and CUDA where its own does not fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

if TYPE_CHECKING:
    from vllm_mlx.platform import Ring


def attend_slots(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, ring: Ring
) -> mx.array:
    """One query a slot, `[S, Hq, 1, D]`, over all columns of `[S, Hk, C, D]`, masked."""
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=ring.mask)


def attend_causal(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
    """Attention of the last L tokens: `[B, Hq, L, D]` over `[B, Hk, p + L, D]`."""
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask="causal")

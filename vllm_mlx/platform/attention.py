"""`Ring`, what attention over slots knows of a batch, and MLX's own attention: Metal uses it, and
CUDA where our kernel does not fit."""

from __future__ import annotations

from typing import Protocol

import mlx.core as mx


class Ring(Protocol):
    """Which columns of a key-value cache each slot may see; see `vllm_mlx.batching.slots.ring`."""

    @property
    def offsets(self) -> mx.array:
        """Tokens that each slot holds beside the newest, int32 `[S]`."""

    @property
    def newest(self) -> mx.array:
        """The column of the newest token, int32 `[1]`."""

    @property
    def mask(self) -> mx.array:
        """What each slot sees, bool `[S, 1, 1, C]`."""

    def mask_of_heads(self, heads: int) -> mx.array:
        """The mask with a copy for each head, bool `[S, heads, 1, C]`; made once a step."""

    @property
    def added_mask(self) -> mx.array:
        """The mask as 0 or -1e9 to be added to scores, float32."""

    def blocks(self, size: int) -> list[tuple[slice, list[slice]]]:
        """Neighbouring slots, up to `size`, with the columns that hold all their tokens."""


def attend_slots(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    ring: Ring,
    sinks: mx.array | None = None,
) -> mx.array:
    """One query a slot, `[S, Hq, 1, D]`, over all columns of `[S, Hk, C, D]`, masked.

    Args:
        sinks: a score for each of the Hq heads that takes its share of the softmax and adds
            nothing; None if there are none.
    """
    return mx.fast.scaled_dot_product_attention(
        queries, keys, values, scale=scale, mask=ring.mask, sinks=sinks
    )


def attend_slots_by_head(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    ring: Ring,
    sinks: mx.array | None = None,
) -> mx.array:
    """`attend_slots` for Metal, which would copy the mask for each head in every layer."""
    mask = ring.mask_of_heads(queries.shape[1])
    return mx.fast.scaled_dot_product_attention(
        queries, keys, values, scale=scale, mask=mask, sinks=sinks
    )


def attend_causal(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    window: int | None = None,
    sinks: mx.array | None = None,
) -> mx.array:
    """Attention of the last L tokens: `[B, Hq, L, D]` over `[B, Hk, K, D]`.

    Args:
        window: tokens that each sees at most, itself among them; None if all.
        sinks: see `attend_slots`.
    """
    L, K = queries.shape[2], keys.shape[2]
    mask: mx.array | str = "causal"
    if window is not None and window < K:
        mask = causal_mask(L, K, window)
    return mx.fast.scaled_dot_product_attention(
        queries, keys, values, scale=scale, mask=mask, sinks=sinks
    )


def causal_mask(L: int, K: int, window: int | None = None) -> mx.array:
    """Which of K tokens the last L see, bool `[L, K]`."""
    queries, keys = mx.arange(K - L, K)[:, None], mx.arange(K)
    seen = queries >= keys
    return seen if window is None else seen & (queries < keys + window)

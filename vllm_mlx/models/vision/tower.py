"""Attention of vision towers over all frames at once.

mlx-vlm attends frame by frame, and asks for the frames' lengths in every layer.
Shapes: p patches, H heads, D head dimension.
"""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.base import ensure_fused_sdpa

from vllm_mlx.models.architectures import role_of


class SegmentedAttention(nn.Module):
    """Each patch attends to those of its own frame or window."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.num_heads = original.num_heads
        self.scale = original.scale
        self.qkv = original.qkv
        self.proj = original.proj

    def __call__(self, x: mx.array, cu_seqlens: mx.array, rotary_pos_emb: mx.array) -> mx.array:
        """Return the attention of patches, projected: `[p, hidden]`.

        Args:
            x: `[p, H * D]`.
            cu_seqlens: where segments begin and end, int32 `[segments + 1]`.
            rotary_pos_emb: angles, float32 `[p, D / 2]`.
        """
        patches = x.shape[0]
        qkv = self.qkv(x).reshape(patches, 3, self.num_heads, -1)
        queries, keys = _rotate(qkv[:, 0], rotary_pos_emb), _rotate(qkv[:, 1], rotary_pos_emb)
        outputs, first = [], 0
        lengths = np.diff(np.array(cu_seqlens))
        for length, run in groupby(lengths[lengths > 0].tolist()):  # windows may be empty
            part = slice(first, first := first + length * len(list(run)))
            outputs.append(self._attend(length, queries[part], keys[part], qkv[part, 2]))
        output = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs)
        projected: mx.array = self.proj(output)
        return projected

    def _attend(self, length: int, queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        """Attention in segments of one length: `[p, H, D]` each, to `[p, H * D]`."""
        p, H, D = queries.shape
        q, k, v = (
            each.reshape(-1, length, H, D).swapaxes(1, 2) for each in (queries, keys, values)
        )
        attended: mx.array = ensure_fused_sdpa(q, k, v, self.scale)
        return attended.swapaxes(1, 2).reshape(p, H * D)


def _rotate(x: mx.array, angles: mx.array) -> mx.array:
    low, high = mx.split(x, 2, axis=-1)
    turned = _turn(low, high, mx.cos(angles)[:, None], mx.sin(angles)[:, None])
    return mx.concatenate(list(turned), axis=-1).astype(x.dtype)


@partial(mx.compile, shapeless=True)
def _turn(
    low: mx.array, high: mx.array, cosine: mx.array, sine: mx.array
) -> tuple[mx.array, mx.array]:
    return low * cosine - high * sine, high * cosine + low * sine


def accelerate_tower(tower: Any) -> None:
    """Swap in our attention where it has a form that we know."""
    for block in tower.blocks:
        if role_of(block.attn) == "tower attention":
            block.attn = SegmentedAttention(block.attn)

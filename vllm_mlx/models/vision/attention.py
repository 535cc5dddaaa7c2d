"""Attention with M-RoPE, as each backend does it fastest."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_vlm.models.rope_utils import rotate_half

from vllm_mlx.models.accelerated import Attention
from vllm_mlx.models.architectures import role_of


class MRoPEAttention(Attention):
    """`Attention` whose tokens may have a position in time, height and width.

    Text has the same in all three, and there M-RoPE is RoPE: so are all decode steps.
    """

    def __init__(self, original: Any) -> None:
        rotary = original.rotary_emb
        original.rope = nn.RoPE(original.head_dim, traditional=False, base=rotary.base)
        super().__init__(original)

    def __call__(
        self,
        x: mx.array,
        mask: Any = None,
        cache: Any = None,
        position_ids: Any = None,
        position_embeddings: tuple[mx.array, mx.array] | None = None,
    ) -> mx.array:
        """Return the attention of tokens `[B, L, hidden]`, projected.

        Args:
            position_embeddings: cosines and sines `[B, L, D]`, if there are media among the tokens;
                without, they are text from the cache's offset on.
        """
        if position_embeddings is None:
            return super().__call__(x, mask, cache)
        cosine, sine = (part[:, None] for part in position_embeddings)
        queries, keys, values = self._heads(x)
        queries, keys = (x * cosine + rotate_half(x) * sine for x in (queries, keys))
        return self._attend(queries, keys, values, mask, cache)


def suits(layers: list[Any]) -> bool:
    """Whether all layers have an attention that `accelerate_layers` knows."""
    return all(role_of(getattr(layer, "self_attn", None)) == "M-RoPE attention" for layer in layers)


def accelerate_layers(layers: list[Any]) -> None:
    """Swap in our attention."""
    for layer in layers:
        layer.self_attn = MRoPEAttention(layer.self_attn)

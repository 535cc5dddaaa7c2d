"""Weights and attention as each backend has them fastest.

`accelerate(model)` swaps in ours for the architectures in the tables below, whose modules have one
and the same form; all others stay as mlx-lm made them. Shapes: B rows, L tokens, Hq and Hk heads
of queries and of keys, D head dimension.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.rope_utils import Llama3RoPE
from mlx_lm.utils import dequantize_model

from vllm_mlx import platform
from vllm_mlx.batching.slots.keys_values import SlotKVCache
from vllm_mlx.models.activations import ACTIVATIONS
from vllm_mlx.models.adapters import merge_adapters
from vllm_mlx.models.architectures import role_of
from vllm_mlx.models.attention import dispatch_attention, scaled_dot_product_attention
from vllm_mlx.models.convolutions import accelerate_convolutions
from vllm_mlx.models.experts import accelerate_experts
from vllm_mlx.models.layouts import lay_out
from vllm_mlx.models.norms import fold_norms
from vllm_mlx.models.projections import Part, join_projections
from vllm_mlx.models.rebinding import rebind
from vllm_mlx.models.recurrences import RECURRENCES
from vllm_mlx.platform.cuda_heads import RotateHeads

Heads = tuple[mx.array, mx.array, mx.array]
"""Queries, keys and values."""


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, as Llama, Qwen2 and Qwen3 have it."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.n_heads = original.n_heads
        self.n_kv_heads = original.n_kv_heads
        self._counts = (self.n_heads, self.n_kv_heads, self.n_kv_heads)
        self.scale = original.scale
        self.rope = original.rope
        self.o_proj = original.o_proj
        self.q_proj, self.k_proj = original.q_proj, original.k_proj
        self.v_proj = original.v_proj
        self._normalize = "q_norm" in original
        if self._normalize:
            self.q_norm, self.k_norm = original.q_norm, original.k_norm
        self._rotate_heads: RotateHeads | None = None

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        if self._rotate_heads and isinstance(cache, SlotKVCache):
            heads = self._heads_of_step(x, cache, self._rotate_heads)
        else:
            queries, keys, values = self._heads(x)
            offset = cache.offset if cache is not None else 0
            heads = self.rope(queries, offset=offset), self.rope(keys, offset=offset), values
        return self._attend(*heads, mask, cache)

    def _heads(self, x: mx.array) -> Heads:
        """Queries `[B, Hq, L, D]`, keys and values `[B, Hk, L, D]`, not rotated yet."""
        B, L, _ = x.shape
        products = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        parts = zip(products, self._counts, strict=True)
        queries, keys, values = (part.reshape(B, L, heads, -1) for part, heads in parts)
        if self._normalize:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        return queries.swapaxes(1, 2), keys.swapaxes(1, 2), values.swapaxes(1, 2)

    def _heads_of_step(self, x: mx.array, cache: SlotKVCache, rotate: RotateHeads) -> Heads:
        S, Hk = x.shape[0], self.n_kv_heads
        joined = self.q_proj.joined(x)
        queries, keys = rotate(joined, cache.offset)
        values = joined[:, :, -Hk * keys.shape[3] :].reshape(S, 1, Hk, -1)
        return queries, keys, values.swapaxes(1, 2)

    def rotate_in_one_launch(self) -> None:
        """Prepare `_heads_of_step`, where it is faster and fits."""
        wavelengths = _wavelengths(self.rope)
        if not isinstance(self.q_proj, Part) or wavelengths is None:
            return
        if self.q_proj.joined.cuts[-1] != sum(self._counts) * 2 * wavelengths.size:
            return  # a part of each head is not rotated
        norms = (self.q_norm, self.k_norm) if self._normalize else None
        self._rotate_heads = platform.make_rotate_heads(
            self.n_heads, self.n_kv_heads, wavelengths, norms
        )

    def _attend(
        self, queries: mx.array, keys: mx.array, values: mx.array, mask: Any, cache: Any
    ) -> mx.array:
        """Attention over all that the cache holds then, projected: `[B, L, hidden]`."""
        B, _, L, _ = queries.shape
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        output = scaled_dot_product_attention(queries, keys, values, cache, self.scale, mask)
        projected: mx.array = self.o_proj(output.swapaxes(1, 2).reshape(B, L, -1))
        return projected


@functools.cache
def _grouped(theirs: Any) -> Any:
    """Return a class of attention that makes scores `[B, Hk, Hq / Hk, L, K]` itself, and takes
    masks `[B, 1, L, K]` for them."""

    def call(self: Any, x: mx.array, mask: Any = None, cache: Any = None) -> Any:
        if mask is not None and mask.ndim == 4 and self.repeats > 1:
            mask = mask[:, :, None]
        return theirs.__call__(self, x, mask, cache)

    return type(theirs.__name__, (theirs,), {"__module__": theirs.__module__, "__call__": call})


def _wavelengths(rope: Any) -> mx.array | None:
    """Radians are position over these, float32 `[D / 2]`; None for a rope of another form."""
    if getattr(rope, "traditional", True):
        return None
    if type(rope) is Llama3RoPE:
        return rope._freqs.astype(mx.float32)
    if type(rope) is nn.RoPE:
        exponents = mx.arange(0, rope.dims, 2, dtype=mx.float32) / rope.dims
        return mx.power(rope.base, exponents) / rope.scale
    return None


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's weights, also where these are not in memory yet."""
    arrays: Any = tree_flatten(model.parameters())
    return sum(array.nbytes for _, array in arrays)


def place(model: nn.Module) -> nn.Module:
    """Bring the weights into memory in the type this backend is fast in; returns the model."""
    if dtype := platform.weight_dtype():
        model.set_dtype(dtype)  # first: scales in float16 would round the weights they make
    if platform.dequantizes(weight_bytes(model)):
        dequantize_model(model)
    merge_adapters(model)
    model.eval()
    mx.eval(model.parameters())
    return model


def accelerate(model: nn.Module) -> nn.Module:
    """Swap in what is known to be faster, layer by layer; return the model itself."""
    dispatch_attention(model)
    for layer in getattr(model, "layers", ()):
        attention: Any = getattr(layer, "self_attn", None)
        role = role_of(attention)
        if role == "attention":
            layer.self_attn = Attention(attention)
        elif role == "grouped attention":
            attention.__class__ = _grouped(attention.__class__)
    use_fast_forms(model, model)
    return model


def use_fast_forms(model: nn.Module, call: Callable[..., Any]) -> None:
    """Have the parts that architectures share computed in this backend's fastest forms.

    Args:
        call: the model with tokens `[B, L]` and `cache`; its own, or one of ours around it.
    """
    fold_norms(model)
    accelerate_experts(model)
    accelerate_convolutions(model)
    rebind(model, (*RECURRENCES, *ACTIVATIONS))

    def call_anew(tokens: mx.array) -> Any:
        return call(tokens, cache=make_prompt_cache(model))

    join_projections(model, call_anew)
    lay_out(model, call_anew)
    for module in model.modules():
        if isinstance(module, Attention):
            module.rotate_in_one_launch()

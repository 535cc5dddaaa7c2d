"""A forward pass of mlx-vlm's Qwen3-VL that a gradient can cross, and fast on a CPU.

Its own evaluates arrays on the way. This one takes a batch of pictures of one size, so the vision
tower attends in each group of frames with a batch dimension instead of a split sequence. MLX's
`exp`, and what is built on it, takes 30 times as long as a multiplication there: see
`vllm_mlx/platform/cpu.py`, whose `exp` is used here with a gradient of its own.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_vlm.models.qwen3_vl import Model
from mlx_vlm.models.qwen3_vl.language import Qwen3VLDecoderLayer, apply_multimodal_rotary_pos_emb
from mlx_vlm.models.qwen3_vl.vision import (
    MLP,
    Attention,
    PatchMerger,
    VisionModel,
    apply_rotary_pos_emb_vision,
)

from examples.tiny_vlm.batches import Batch
from vllm_mlx import platform

Turn = tuple[mx.array, mx.array]  # cosines and sines

_exp = platform.operations().exp


def loss(model: Model, batch: Batch) -> mx.array:
    """The mean cross entropy of the answers' tokens."""
    logits = answers(model, batch)
    return nn.losses.cross_entropy(logits, mx.array(batch.targets), reduction="mean")


def answers(model: Model, batch: Batch) -> mx.array:
    """Logits `[A, V]` at the tokens that count."""
    text = model.language_model.model
    hidden = text.embed_tokens(mx.array(batch.ids))
    shape, visual = hidden.shape, mx.array(batch.visual)
    features, deep = encode(model.vision_tower, mx.array(batch.pixels), batch.grid)
    kept = np.ones((hidden.size // shape[-1], 1), np.float32)
    kept[batch.visual] = 0
    hidden = hidden.reshape(-1, shape[-1]) * mx.array(kept)
    hidden = hidden.at[visual].add(features).reshape(shape)
    turn = text.layers[0].self_attn.rotary_emb(hidden, mx.array(batch.positions))
    mask = nn.MultiHeadAttention.create_additive_causal_mask(shape[1])
    for i, layer in enumerate(text.layers):
        hidden = hidden + _listen(layer, hidden, turn, mask)
        normed = layer.post_attention_layernorm(hidden)
        up = _swiglu(layer.mlp.gate_proj(normed), layer.mlp.up_proj(normed))
        hidden = hidden + layer.mlp.down_proj(up)
        if i < len(deep):
            hidden = hidden.reshape(-1, shape[-1]).at[visual].add(deep[i]).reshape(shape)
    asked = text.norm(hidden.reshape(-1, shape[-1])[mx.array(batch.asked)])
    return text.embed_tokens.as_linear(asked)


def encode(
    tower: VisionModel, pixels: mx.array, grid: tuple[int, int]
) -> tuple[mx.array, list[mx.array]]:
    """Features of all groups of frames, and those for the language model's first layers."""
    thw = mx.array([[1, *grid]])
    weight = tower.patch_embed.proj.weight
    kernel = weight.transpose(0, 4, 1, 2, 3).reshape(weight.shape[0], -1)
    hidden = pixels @ kernel.T + tower.patch_embed.proj.bias
    hidden = hidden + tower.fast_pos_embed_interpolate(thw)
    turn, deep = tower.rot_pos_emb(thw), []
    for i, block in enumerate(tower.blocks):
        hidden = hidden + _look(block.attn, block.norm1(hidden), turn)
        hidden = hidden + _through(block.mlp, block.norm2(hidden))
        if i in tower.deepstack_visual_indexes:
            merger = tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(i)]
            deep.append(_merge(merger, hidden))
    return _merge(tower.merger, hidden), deep


def _listen(layer: Qwen3VLDecoderLayer, hidden: mx.array, turn: Turn, mask: mx.array) -> mx.array:
    """The attention of a layer of the language model."""
    attention, (rows, length, _) = layer.self_attn, hidden.shape
    hidden = layer.input_layernorm(hidden)
    q = attention.q_norm(attention.q_proj(hidden).reshape(rows, length, attention.n_heads, -1))
    k = attention.k_norm(attention.k_proj(hidden).reshape(rows, length, attention.n_kv_heads, -1))
    v = attention.v_proj(hidden).reshape(k.shape)
    q, k, v = (each.transpose(0, 2, 1, 3) for each in (q, k, v))
    q, k = apply_multimodal_rotary_pos_emb(q, k, *turn)
    shared = attention.n_heads // attention.n_kv_heads
    k, v = (mx.repeat(each, shared, axis=1) for each in (k, v))
    mixed = _softmax((q * attention.scale) @ k.swapaxes(2, 3) + mask) @ v
    return attention.o_proj(mixed.transpose(0, 2, 1, 3).reshape(rows, length, -1))


def _look(attention: Attention, hidden: mx.array, turn: mx.array) -> mx.array:
    """The attention of a layer of the vision tower."""
    groups, length, width = hidden.shape
    joined = attention.qkv(hidden).reshape(groups, length, 3, attention.num_heads, -1)
    q, k, v = (joined[:, :, i] for i in range(3))
    q, k = (apply_rotary_pos_emb_vision(each, turn) for each in (q, k))
    q, k, v = (each.transpose(0, 2, 1, 3) for each in (q, k, v))
    mixed = _softmax((q * attention.scale) @ k.swapaxes(2, 3)) @ v
    return attention.proj(mixed.transpose(0, 2, 1, 3).reshape(groups, length, width))


def _through(mlp: MLP, hidden: mx.array) -> mx.array:
    return mlp.linear_fc2(_gelu(mlp.linear_fc1(hidden)))


def _merge(merger: PatchMerger, hidden: mx.array) -> mx.array:
    """With GELU by tanh: the model's own goes by erf, which differs by at most 5e-4."""
    if merger.use_postshuffle_norm:
        joined = merger.norm(hidden.reshape(-1, merger.hidden_size))
    else:
        joined = merger.norm(hidden).reshape(-1, merger.hidden_size)
    return merger.linear_fc2(_gelu(merger.linear_fc1(joined)))


def _gelu(x: mx.array) -> mx.array:
    """By tanh, which is `x` times a sigmoid."""
    return _swiglu(1.5957691216 * (x + 0.044715 * x * x * x), x, squashed_only=True)


def _swiglu(gate: mx.array, up: mx.array, *, squashed_only: bool = False) -> mx.array:
    share = _sigmoid(gate)
    return share * up if squashed_only else gate * share * up


@mx.custom_function
def _sigmoid(x: mx.array) -> mx.array:
    return 1.0 / (1.0 + _exp(-x))


@_sigmoid.vjp
def _sigmoid_vjp(_: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output * (1.0 - output)


@mx.custom_function
def _softmax(scores: mx.array) -> mx.array:
    weights = _exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@_softmax.vjp
def _softmax_vjp(_: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    moved = cotangent * output
    return moved - output * moved.sum(axis=-1, keepdims=True)

"""The models that a benchmark runs: by name, or random weights in a known shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models import llama

from vllm_mlx import platform
from vllm_mlx.model_files import ALIASES
from vllm_mlx.models import loading
from vllm_mlx.models.accelerated import accelerate, place

GROUP_SIZE = 64
_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": None,
    "tie_word_embeddings": True,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-3b": {
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 8192,
        "vocab_size": 128_256,
    },
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": 512,
    },
}


@dataclass(frozen=True)
class ModelPair:
    """The same weights twice.

    Attributes:
        ours: as our loader leaves a model for this backend.
        peers: as mlx-lm has it. Of a `.gguf` file, and on a CPU, the weights come through our
            loader: mlx-lm does not read the first, and its own, in 16 bits or quantized, would be
            many times slower on the second. The modules are mlx-lm's.
    """

    ours: nn.Module
    peers: nn.Module
    vocab_size: int
    name: str


def named_models(name: str) -> ModelPair:
    """A hub id, a local folder, a `.gguf` file, or an alias."""
    loaded = loading.load_model(name)
    if platform.backend() == "cpu" or name in ALIASES or name.lower().endswith(".gguf"):
        peers = loading.load_model(name, accelerated=False).model
    else:
        peers = mlx_lm.load(name)[0]
    return ModelPair(loaded.model, peers, loaded.vocab_size, name)


def random_models(shape: str, bits: int | None, seed: int) -> ModelPair:
    """Weights from N(0, 0.02²), norms of one, in the type that this backend is fast in.

    That is bfloat16, but float32 on a CPU. `bits` quantizes the weights for both, in groups of 64.
    """
    args = llama.ModelArgs(**_LLAMA, **SHAPES[shape])
    platform.prepare()
    dtype = mx.float32 if platform.backend() == "cpu" else mx.bfloat16
    peers = llama.Model(args)
    _fill(peers, dtype, seed)
    ours = llama.Model(args)
    if bits:
        nn.quantize(peers, group_size=GROUP_SIZE, bits=bits)
        nn.quantize(ours, group_size=GROUP_SIZE, bits=bits)
    ours.update(peers.parameters())  # the same arrays: what `ours` was made with is never computed
    for model in (peers, ours):
        model.eval()
        mx.eval(model.parameters())
    placed = accelerate(place(ours))
    quantized = f", {bits} bits" if bits else ""
    name = f"{shape} (random weights, {str(dtype).removeprefix('mlx.core.')}{quantized})"
    return ModelPair(placed, peers, args.vocab_size, name)


def _fill(model: nn.Module, dtype: mx.Dtype, seed: int) -> None:
    key = mx.random.key(seed)
    filled = []
    for name, array in tree_flatten(model.parameters()):
        key, own = mx.random.split(key)
        if array.ndim == 1:
            filled.append((name, mx.ones(array.shape, dtype)))
        else:
            filled.append((name, mx.random.normal(array.shape, dtype, scale=0.02, key=own)))
    model.update(tree_unflatten(filled))

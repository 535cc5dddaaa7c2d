"""A package in the place of the one that SmolLM2 comes in, whose model is tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from vllm_mlx.model_files import ALIASES, local_path

ALIAS = "smollm2-135m"
HIDDEN, INNER, HEADS, BLOCKS = 32, 64, 2, 2
SIZES = {
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INNER,
    "llama.block_count": BLOCKS,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": HEADS,
    "llama.rope.dimension_count": HIDDEN // HEADS,
}
MATRICES = {
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (HIDDEN, HIDDEN),
    "attn_v": (HIDDEN, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_gate": (INNER, HIDDEN),
    "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}


def write_tiny_smollm2(folder: Path) -> Path:
    """Make `folder` one to be put first on PYTHONPATH, where `smollm2-135m` is then a file of
    random weights with SmolLM2's tokenizer, chat template and context length."""
    package, file = ALIASES[ALIAS]
    loaded: Any = mx.load(str(local_path(ALIAS)), format="gguf", return_metadata=True)
    weights, metadata = loaded
    vocab_size = weights["token_embd.weight"].shape[0]
    tensors = {"token_embd.weight": _noise(0, vocab_size, HIDDEN)}
    tensors["output_norm.weight"] = mx.ones((HIDDEN,))
    for block in range(BLOCKS):
        for at, (name, shape) in enumerate(MATRICES.items(), 1):
            tensors[f"blk.{block}.{name}.weight"] = _noise(block * 100 + at, *shape)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{block}.{name}.weight"] = mx.ones((HIDDEN,))
    sizes = {name: mx.array(size, mx.uint32) for name, size in SIZES.items()}
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").touch()
    mx.save_gguf(str(folder / package / file), tensors, {**metadata, **sizes})
    return folder


def _noise(seed: int, *shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)) * 0.3

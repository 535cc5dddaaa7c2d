"""Tiny llamas with random weights and the tokenizer of SmolLM2, in folders as mlx-lm loads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from tests.helpers.decoding import CONFIG, CONTEXT_LENGTH, randomize
from vllm_mlx.model_files import local_path
from vllm_mlx.models.gguf import load_gguf


def write_text_model(
    folder: Path,
    *,
    context: int = CONTEXT_LENGTH,
    dtype: mx.Dtype = mx.float32,
    quantize: bool = False,
) -> str:
    """A model whose every token depends on all before it, and that never ends by itself."""
    _, tokenizer, _ = load_gguf(local_path("smollm2-135m"))
    vocab_size = tokenizer.vocab_size
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})  # which it has no logit for
    config: dict[str, Any] = {
        **CONFIG,
        "intermediate_size": 64,
        "vocab_size": vocab_size,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = randomize(llama.Model(llama.ModelArgs.from_dict(config)))
    # Few tokens are likely, as with trained weights: of 49,000 that are all as likely, rounding
    # would decide which is sampled.
    model.model.norm.weight *= 4
    model.set_dtype(dtype)
    if quantize:
        nn.quantize(model, group_size=32, bits=4)
        config["quantization"] = {"group_size": 32, "bits": 4}
    folder.mkdir()
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(str(folder))
    return str(folder)

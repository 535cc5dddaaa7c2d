"""Load a GGUF file of llama architecture as an mlx-lm model and tokenizer.

The file holds everything: tensors, hyperparameters, vocabulary and chat template. Names and
meanings of the metadata follow the GGUF specification (ggml `docs/gguf.md`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import llama
from mlx_lm.tokenizer_utils import TokenizerWrapper

from vllm_mlx.errors import ModelLoadError
from vllm_mlx.models.gguf_metadata import Metadata
from vllm_mlx.models.gguf_tokenizer import make_tokenizer

_GROUP_SIZE = 32  # weights per scale, in every block format that MLX keeps quantized
_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|scales|biases)")
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def load_gguf(path: Path) -> tuple[nn.Module, TokenizerWrapper, dict[str, Any]]:
    """Load a `.gguf` file of llama architecture with a byte-level BPE tokenizer.

    Q4_0, Q4_1 and Q8_0 tensors stay quantized (groups of 32, with scales and biases in float16);
    what other types MLX can read it has converted to float16. Norms take the type of the other
    tensors, because one float32 norm would make every activation float32.

    Returns:
        The `mlx_lm` model, evaluated; its tokenizer; and a config as in an `mlx_lm` folder, with
        `eos_token_id` as a list and `quantization` where a layer is quantized.

    Raises:
        ModelLoadError: naming the file and what is missing, damaged or not supported.
    """
    tensors, meta = _read(path)
    config = _config(meta, tensors)
    tokenizer = make_tokenizer(meta, config)
    try:
        model = _model(meta, tensors, config)
    except ValueError as error:
        raise meta.error(f"the tensors do not fit the metadata: {error}") from error
    return model, tokenizer, config


def gguf_config(path: Path) -> dict[str, Any]:
    """Return the configuration of a `.gguf` file; raises what `load_gguf` raises."""
    tensors, meta = _read(path)
    return _config(meta, tensors)


def _model(meta: Metadata, tensors: Mapping[str, mx.array], config: dict[str, Any]) -> llama.Model:
    weights = _weights(meta, tensors, config)
    quantization = _quantization(weights)
    if quantization:
        usual = min(quantization.values(), key=lambda layer: layer["bits"])
        config["quantization"] = {**usual, **quantization}
    model = llama.Model(llama.ModelArgs.from_dict(config))
    nn.quantize(model, class_predicate=lambda name, _: quantization.get(name, False))
    model.load_weights(list(weights.items()), strict=True)
    model.eval()
    # Streams belong to a thread: work left lazy here could not be finished on another one.
    mx.eval(list(weights.values()))
    return model


def _read(path: Path) -> tuple[dict[str, mx.array], Metadata]:
    try:
        _check_header(path)
        loaded: Any = mx.load(str(path), format="gguf", return_metadata=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelLoadError(f"{path}: not a readable GGUF file: {error}") from error
    tensors, values = loaded
    return tensors, Metadata(path, values)


def _check_header(path: Path) -> None:
    """Refuse what is no GGUF file: MLX's reader trusts the counts and can crash the process."""
    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or header[:4] != b"GGUF":
        raise ValueError("it does not start with a GGUF header")
    version, tensors, entries = struct.unpack("<IQQ", header[4:])
    if version not in (2, 3):
        raise ValueError(f"GGUF version {version} is not supported; supported: 2, 3")
    # The least a tensor's and a metadata entry's description can take, in bytes.
    if tensors * 32 + entries * 13 > path.stat().st_size:
        raise ValueError("its header promises more than the file holds; truncated or corrupt")


def _config(meta: Metadata, tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    arch = meta.choice("general.architecture", ("llama",))
    if meta.get("llama.expert_count", 0):
        raise meta.error("mixture of experts is not supported")
    hidden = meta.number("llama.embedding_length")
    heads = meta.number("llama.attention.head_count")
    head_dim = meta.number("llama.attention.key_length", hidden // heads)
    if meta.number("llama.rope.dimension_count", head_dim) != head_dim:
        raise meta.error(f"RoPE over a part of the {head_dim} head dimensions is not supported")
    meta.get("tokenizer.ggml.eos_token_id")
    ends = (meta.token_id(kind) for kind in ("eos", "eot", "eom"))
    context = meta.number("llama.context_length")
    return {
        "model_type": arch,
        "hidden_size": hidden,
        "num_hidden_layers": meta.number("llama.block_count"),
        "intermediate_size": meta.number("llama.feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.number("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": meta.number("llama.attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": context,
        "rope_theta": meta.number("llama.rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(meta, tensors, context),
        "vocab_size": len(meta.get("tokenizer.ggml.tokens")),
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": meta.token_id("bos"),
        "eos_token_id": [end for end in ends if end is not None],
    }


def _rope_scaling(
    meta: Metadata, tensors: Mapping[str, mx.array], context: int
) -> dict[str, Any] | None:
    if "rope_freqs.weight" in tensors:
        # Llama 3 files carry the finished factor of each frequency (shape [head_dim / 2]). With
        # equal context lengths "longrope" multiplies by just these, and scales nothing else.
        factors = tensors["rope_freqs.weight"].tolist()
        return {
            "rope_type": "longrope",
            "short_factor": factors,
            "long_factor": factors,
            "original_max_position_embeddings": context,
        }
    kind = meta.choice("llama.rope.scaling.type", ("none", "linear"), "none")
    if kind == "none":
        return None
    return {"rope_type": "linear", "factor": meta.number("llama.rope.scaling.factor")}


def _weights(
    meta: Metadata, tensors: Mapping[str, mx.array], config: Mapping[str, Any]
) -> dict[str, mx.array]:
    """The tensors under mlx-lm's names, with the rows of q and k in mlx-lm's order."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    floats = [t.dtype for t in tensors.values() if t.ndim == 2 and t.dtype != mx.uint32]
    dtype = mx.float16 if mx.float16 in floats else mx.float32
    weights = {}
    for name, tensor in tensors.items():
        if name == "rope_freqs.weight":
            continue
        match = _NAME.fullmatch(name)
        layer, kind, part = match.groups() if match else (None, "", "")
        target = (_INNER if layer else _OUTER).get(kind)
        if target is None:
            raise meta.error(f"tensor {name!r} is not supported")
        if kind in heads:
            tensor = _unpermute(tensor, heads[kind])
        prefix = f"model.layers.{layer}." if layer else ""
        packed = tensor.dtype == mx.uint32
        weights[f"{prefix}{target}.{part}"] = tensor if packed else tensor.astype(dtype)
    return weights


def _unpermute(tensor: mx.array, heads: int) -> mx.array:
    """Undo GGUF's row order of q and k, shape [heads * head_dim, ...].

    GGUF pairs the rows 2i and 2i + 1 of a head for RoPE, mlx-lm the rows i and i + head_dim / 2.
    """
    rows = tensor.shape[0]
    paired = tensor.reshape(heads, rows // heads // 2, 2, *tensor.shape[1:])
    return paired.swapaxes(1, 2).reshape(tensor.shape)


def _quantization(weights: Mapping[str, mx.array]) -> dict[str, dict[str, int]]:
    """Group size and bits of each quantized layer, by its path in the model.

    A row of n weights is n / 32 scales and n * bits / 32 words of 32 bits.
    """
    layers = [name.removesuffix(".scales") for name in weights if name.endswith(".scales")]
    return {
        name: {
            "group_size": _GROUP_SIZE,
            "bits": weights[f"{name}.weight"].shape[-1] // weights[f"{name}.scales"].shape[-1],
        }
        for name in layers
    }

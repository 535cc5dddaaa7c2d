"""What a model's caches take, told by its configuration before its weights are read."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from tests.helpers import vision_folders
from tests.helpers.text_folders import write_folder
from vllm_mlx.model_files import local_path
from vllm_mlx.models.loading import load_model
from vllm_mlx.models.skeleton import least_cache_bytes, skeleton_of

LARGE = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "intermediate_size": 6144,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "rms_norm_eps": 1e-6,
    "vocab_size": 151936,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
    "norm_topk_prob": True,
}


# Keys and values; windows; states beside them; latent ones; what slots have no form for.
@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "jamba", "deepseek_v2", "llama4"])
def test_the_skeleton_of_a_text_model_needs_what_the_model_does(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path, name)
    least = least_cache_bytes(skeleton_of(folder))
    assert least
    assert least == least_cache_bytes(load_model(str(folder)).model)


@pytest.mark.parametrize("name", ["gemma3", "idefics3"])
def test_the_skeleton_of_one_that_sees(tmp_path: Path, name: str) -> None:
    folder = vision_folders.write_folder(tmp_path, name)
    least = least_cache_bytes(skeleton_of(folder))
    assert least
    assert least == least_cache_bytes(load_model(str(folder)).model)


def test_a_gguf_file_has_its_own_configuration() -> None:
    path = local_path("smollm2-135m")
    assert path
    per_token = 30 * 2 * 3 * 64 * mx.float32.size  # layers, keys and values, heads, dimensions
    assert 256 * per_token < (least_cache_bytes(skeleton_of(path)) or 0) < 512 * per_token


def test_weights_are_never_computed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LARGE))
    mx.reset_peak_memory()
    before = mx.get_active_memory()

    least = least_cache_bytes(skeleton_of(tmp_path))

    assert least is not None
    assert least > 256 * 48 * 2 * 4 * 128 * 2
    assert mx.get_peak_memory() - before < 1 << 20  # of 30 billion weights

"""Tiny models of mlx-lm's architectures with random weights, in folders like real ones."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.helpers.decoding import randomize

VOCAB = 300
BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 1000.0,
    "tie_word_embeddings": False,
}
_WINDOW = {"sliding_window": 8}
_MIXED = ["sliding_attention", "full_attention"]
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "rope_scaling": None,
}
_DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 3,
    "partial_rotary_factor": 0.5,
    "head_dim": 16,
    "num_hidden_layers": 4,
}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_n_groups": 1,
    "mamba_proj_bias": False,
    "mamba_conv_bias": False,
}
_GPT = {
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 512,
    "n_ctx": 512,
    "n_inner": 48,
    "layer_norm_epsilon": 1e-5,
}

SLOTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 16},
    "phi3": {},
    "stablelm": {"use_qkv_bias": False, "partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5},
    "gpt2": _GPT,
    "gpt_neox": {"layer_norm_eps": 1e-5, "rotary_pct": 0.5, "rotary_emb_base": 1000},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "llama4_text": {
        "intermediate_size_mlp": 48,
        "head_dim": 8,
        "no_rope_layers": [0, 1],
        "use_qk_norm": True,
    },
    "deepseek_v2": {
        **_LATENT,
        "rope_scaling": {"type": "yarn", "factor": 40, "mscale_all_dim": 1.0},
        "moe_intermediate_size": 32,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "routed_scaling_factor": 1.0,
        "topk_method": "greedy",
        "n_group": 1,
        "topk_group": 1,
        "attention_bias": False,
    },
}
"""Layers that keep plain keys and values, by architecture: what its config has beside `BASE`."""

BATCHES: dict[str, dict[str, Any]] = {
    "gemma3_text": {"head_dim": 8, **_WINDOW, "sliding_window_pattern": 2},
    "gpt_oss": {
        "head_dim": 8,
        **_WINDOW,
        "layer_types": _MIXED,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "exaone4": {
        "head_dim": 8,
        "num_hidden_layers": 4,
        "rope_scaling": None,
        **_WINDOW,
        "sliding_window_pattern": "LLGL",
        "layer_types": [*_MIXED[:1], *_MIXED, *_MIXED[:1]],
    },
    "olmo3": {**_WINDOW, "layer_types": _MIXED},
    "cohere2": {"head_dim": 8, **_WINDOW, "sliding_window_pattern": 2, "layer_norm_eps": 1e-5},
    "gemma3n": {
        "text_config": {
            **BASE,
            "model_type": "gemma3n_text",
            "num_hidden_layers": 4,
            "head_dim": 8,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": VOCAB,
            **_WINDOW,
            "rope_local_base_freq": 100.0,
            "final_logit_softcapping": 30.0,
            "layer_types": _MIXED * 2,
            "activation_sparsity_pattern": [0.5] * 4,
            "hidden_size_per_layer_input": 16,
            "altup_num_inputs": 2,
            "altup_coef_clip": 1.0,
            "altup_correct_scale": True,
            "altup_active_idx": 0,
            "laurel_rank": 4,
        }
    },
    "baichuan_m1": {**_WINDOW, "sliding_window_layers": [0], "conv_window": 2},
    "longcat_flash": {
        **_LATENT,
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 32,
        "moe_topk": 2,
        "n_routed_experts": 4,
        "zero_expert_num": 1,
        "num_layers": 2,
        "attention_method": "MLA",
        "zero_expert_type": "identity",
        "attention_bias": False,
        "norm_topk_prob": True,
        "router_bias": False,
        "routed_scaling_factor": 1.0,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
    },
    "mamba2": {
        "num_heads": 8,
        "head_dim": 8,
        "state_size": 16,
        "layer_norm_epsilon": 1e-4,
        "conv_kernel": 3,
        "n_groups": 4,
        "use_bias": False,
        "use_conv_bias": False,
        "time_step_limit": [0.01, 10.0],
        "time_step_rank": "auto",
    },
    "rwkv7": {
        "norm_eps": 1e-5,
        "head_dim": 16,
        "a_low_rank_dim": 8,
        "v_low_rank_dim": 8,
        "gate_low_rank_dim": 8,
        "decay_low_rank_dim": 8,
    },
    "lfm2": {
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 32,
        "block_ff_dim": 48,
        "block_multiple_of": 4,
        "block_ffn_dim_multiplier": 2,
        "block_auto_adjust_ff_dim": True,
        "layer_types": ["conv", "full_attention"],
    },
    "recurrent_gemma": {
        "head_dim": 8,
        "num_hidden_layers": 3,
        "num_key_value_heads": 1,
        "conv1d_width": 4,
        "attention_bias": False,
        "logits_soft_cap": 30.0,
        "attention_window_size": 8,
        "lru_width": 32,
        "block_types": ["recurrent", "recurrent", "attention"],
        "embeddings_scale_by_sqrt_dim": True,
    },
    "qwen3_next": {
        **_DELTA,
        **_EXPERTS,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [0],
    },
    "granitemoehybrid": {
        **_MAMBA,
        "mamba_expand": 4,
        "attention_bias": False,
        "embedding_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 32,
        "layer_types": ["mamba", "attention"],
    },
}
"""Windows, states and latents, which mlx-lm's own batches hold."""

ALONE: dict[str, dict[str, Any]] = {
    "afm7": {
        "hidden_dim": 32,
        "num_layers": 4,
        "num_kv_reuse_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
    },
    "llama4": {
        "text_config": {
            **BASE,
            "model_type": "llama4_text",
            "num_hidden_layers": 4,
            "attention_bias": False,
            "attention_chunk_size": 8,
            "head_dim": 8,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 48,
            "num_experts_per_tok": 1,
            "num_local_experts": 2,
            "rope_scaling": None,
            "use_qk_norm": True,
        }
    },
    "gemma2": {
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gpt_bigcode": {**_GPT, "multi_query": True},
}
"""Architectures that give other answers in a batch than alone, or none."""

ARCHITECTURES = SLOTS | BATCHES | ALONE


def write_folder(parent: Path, name: str) -> Path:
    """A model of that architecture, the same each time, in a folder of its own."""
    folder = parent / name
    folder.mkdir(parents=True)
    config = {"model_type": name, **BASE, **ARCHITECTURES[name]}
    (folder / "config.json").write_text(json.dumps(config))
    module = importlib.import_module(f"mlx_lm.models.{name}")
    model = randomize(module.Model(module.ModelArgs.from_dict(config)), 0.25)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    _write_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: at for at, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

"""The shapes that benchmarks give random weights: what the `config.json` of each model says.

`TEXT` are models of mlx-lm, `VISION` are models of mlx-vlm.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

_LLAMA: Config = {
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": None,
    "tie_word_embeddings": True,
}
_GEMMA_3: Config = {
    "model_type": "gemma3_text",
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "sliding_window_pattern": 6,
}
_QWEN_3_5: Config = {
    "model_type": "qwen3_5",
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "vocab_size": 248_320,
    "tie_word_embeddings": True,
    "full_attention_interval": 4,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 262_144,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000_000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [11, 11, 10],
    },
}

TEXT: dict[str, Config] = {
    "llama-3.2-3b": {
        **_LLAMA,
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 8192,
        "vocab_size": 128_256,
    },
    "gemma-3-4b": {
        **_GEMMA_3,
        "hidden_size": 2560,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 10_240,
        "vocab_size": 262_208,
        "sliding_window": 1024,
        "max_position_embeddings": 131_072,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "gemma-3-270m": {
        **_GEMMA_3,
        "hidden_size": 640,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "intermediate_size": 2048,
        "vocab_size": 262_144,
        "sliding_window": 512,
        "max_position_embeddings": 32_768,
    },
    "qwen3.5-4b": {
        **_QWEN_3_5,
        "hidden_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "intermediate_size": 9216,
        "linear_num_value_heads": 32,
    },
    "qwen3.5-0.8b": {
        **_QWEN_3_5,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 3584,
        "linear_num_value_heads": 16,
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss",
        "hidden_size": 2880,
        "num_hidden_layers": 24,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 2880,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "vocab_size": 201_088,
        "sliding_window": 128,
        "rope_theta": 150_000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": 4096,
        },
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "rms_norm_eps": 1e-6,
        "vocab_size": 151_936,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": False,
        "max_position_embeddings": 40_960,
    },
    "tiny": {
        **_LLAMA,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": 512,
    },
}

EXPERTS: dict[str, Config] = {"gpt-oss-20b": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}
"""How the checkpoints of a shape hold their experts, where it is not as their other matrices."""

VISION: dict[str, Config] = {
    "qwen3-vl-4b": {
        "model_type": "qwen3_vl",
        "text_config": {
            "hidden_size": 2560,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 9728,
            "vocab_size": 151_936,
            "rope_theta": 5_000_000.0,
            "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20]},
        },
        "vision_config": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": 2560,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    },
    "gemma-3-4b": {
        "model_type": "gemma3",
        "hidden_size": 2560,
        "text_config": {**TEXT["gemma-3-4b"], "mm_tokens_per_image": 256},
        "vision_config": {
            "model_type": "siglip_vision_model",
            "num_hidden_layers": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_attention_heads": 16,
            "patch_size": 14,
            "image_size": 896,
        },
    },
    "tiny-gemma-3": {
        "model_type": "gemma3",
        "hidden_size": 64,
        "text_config": {
            **_GEMMA_3,
            "hidden_size": 64,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "intermediate_size": 128,
            "vocab_size": 512,
            "sliding_window": 64,
            "mm_tokens_per_image": 16,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 4,
            "patch_size": 14,
            "image_size": 112,
        },
    },
}

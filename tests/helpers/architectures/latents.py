"""Layers that keep a latent of keys and values, or several of these."""

from __future__ import annotations

from tests.helpers.architectures.base import ROUTED, Config

LATENT: Config = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "rope_scaling": None,
    "attention_bias": False,
}

LONGCAT: Config = {
    **LATENT,
    "ffn_hidden_size": 48,
    "expert_ffn_hidden_size": 32,
    "moe_topk": 2,
    "n_routed_experts": 4,
    "zero_expert_num": 1,
    "num_layers": 2,
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "norm_topk_prob": True,
    "router_bias": False,
    "routed_scaling_factor": 1.0,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}

LATENTS: dict[str, Config] = {
    "deepseek_v2": {
        **LATENT,
        **ROUTED,
        "rope_scaling": {"type": "yarn", "factor": 40, "mscale_all_dim": 1.0},
        "moe_layer_freq": 1,
        "topk_method": "greedy",
    },
    "deepseek_v3": {**LATENT, **ROUTED},
    "deepseek_v32": {
        **LATENT,
        **ROUTED,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "index_topk": 8,
    },
    "glm4_moe_lite": {**LATENT, **ROUTED},
    "youtu_llm": LATENT,
    "minicpm3": {
        **LATENT,
        "rope_scaling": {
            "original_max_position_embeddings": 512,
            "short_factor": [1.0] * 4,
            "long_factor": [1.0] * 4,
        },
        "dim_model_base": 32,
        "scale_depth": 1.4,
        "scale_emb": 1.0,
    },
    "longcat_flash": LONGCAT,
}

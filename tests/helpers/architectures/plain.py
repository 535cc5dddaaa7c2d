"""Layers that keep keys and values of all tokens."""

from __future__ import annotations

from tests.helpers.architectures.base import EXPERTS, NO_BIAS, ROUTED, Config

GPT: Config = {
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 512,
    "n_ctx": 512,
    "n_inner": 48,
    "layer_norm_epsilon": 1e-5,
}

PLAIN: dict[str, Config] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_moe": {
        **EXPERTS,
        "head_dim": 16,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
    "gemma": {"head_dim": 8},
    "gemma2": {
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "phi3": {},
    "phimoe": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * 4,
            "long_factor": [1.0] * 4,
            "long_mscale": 1.0,
            "short_mscale": 1.0,
        },
    },
    "glm4": {"head_dim": 8, "attention_bias": False, "partial_rotary_factor": 0.5},
    "glm4_moe": {
        **ROUTED,
        "head_dim": 8,
        "rope_scaling": None,
        "use_qk_norm": True,
        "attention_bias": False,
        "partial_rotary_factor": 0.5,
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "granite": {
        **NO_BIAS,
        "logits_scaling": 1.0,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
    },
    "cohere": {"layer_norm_eps": 1e-5, "logit_scale": 1.0},
    "olmo2": {},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "smollm3": {"no_rope_layer_interval": 2},
    "starcoder2": {"norm_epsilon": 1e-5},
    "stablelm": {"use_qkv_bias": False, "partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5},
    "seed_oss": {"head_dim": 8},
    "apertus": {**NO_BIAS, "post_norm": False, "qk_norm": True},
    "hunyuan_v1_dense": {
        "head_dim": 8,
        "rope_scaling": {"type": "dynamic", "alpha": 2.0, "factor": 1.0},
    },
    "ernie4_5_moe": {
        "use_bias": False,
        "moe_num_experts": 4,
        "moe_intermediate_size": 32,
        "moe_k": 2,
        "moe_layer_start_index": 1,
        "moe_num_shared_experts": 1,
    },
    "minimax": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 32,
        "rotary_dim": 8,
        "head_dim": 8,
    },
    "dots1": {**ROUTED, "scoring_func": "noaux_tc"},
    "bailing_moe": {
        **EXPERTS,
        "num_shared_experts": 1,
        "norm_topk_prob": True,
        "first_k_dense_replace": 1,
        "topk_group": 1,
    },
    "internlm3": {},
    "nemotron": {"hidden_act": "relu2", "norm_eps": 1e-5},
    "gpt2": GPT,
    "gpt_neox": {"layer_norm_eps": 1e-5, "rotary_pct": 0.5, "rotary_emb_base": 1000},
    "gpt_bigcode": {**GPT, "multi_query": True},
    "llama4_text": {
        "intermediate_size_mlp": 48,
        "head_dim": 8,
        "no_rope_layers": [0, 1],
        "use_qk_norm": True,
    },
    "afm7": {
        "hidden_dim": 32,
        "num_layers": 4,
        "num_kv_reuse_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
    },
}

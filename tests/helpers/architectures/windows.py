"""Layers of which some keep the last few tokens only, or chunks of them."""

from __future__ import annotations

from tests.helpers.architectures.base import BASE, EXPERTS, ROUTED, SLIDING, VOCAB, WINDOW, Config

MIXED = SLIDING["layer_types"]
GEMMA_3N: Config = {
    **BASE,
    **SLIDING,
    "model_type": "gemma3n_text",
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": VOCAB,
    "rope_local_base_freq": 100.0,
    "final_logit_softcapping": 30.0,
    "layer_types": MIXED * 2,
    "activation_sparsity_pattern": [0.5] * 4,
    "hidden_size_per_layer_input": 16,
    "altup_num_inputs": 2,
    "altup_coef_clip": 1.0,
    "altup_correct_scale": True,
    "altup_active_idx": 0,
    "laurel_rank": 4,
}
GEMMA_4: Config = {
    **SLIDING,
    "model_type": "gemma4_text",
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "global_head_dim": 16,
    "vocab_size_per_layer_input": VOCAB,
    "hidden_size_per_layer_input": 16,
    "layer_types": MIXED * 2,
}
LLAMA_4: Config = {
    **BASE,
    "model_type": "llama4_text",
    "num_hidden_layers": 4,
    "attention_bias": False,
    "attention_chunk_size": WINDOW,
    "head_dim": 8,
    "interleave_moe_layer_step": 2,
    "intermediate_size_mlp": 48,
    "num_experts_per_tok": 1,
    "num_local_experts": 2,
    "rope_scaling": None,
    "use_qk_norm": True,
}

WINDOWS: dict[str, Config] = {
    "gemma3_text": {**SLIDING, "sliding_window_pattern": 2},
    "gemma3n": {"text_config": GEMMA_3N},
    "gemma4_text": GEMMA_4,
    "gemma4": {"text_config": {**BASE, **GEMMA_4}},
    "gpt_oss": {**SLIDING, "num_local_experts": 4, "num_experts_per_tok": 2},
    "ministral3": {
        **SLIDING,
        "rope_parameters": {
            "rope_theta": 1000.0,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 16,
            "type": "default",
        },
    },
    "cohere2": {**SLIDING, "sliding_window_pattern": 2, "layer_norm_eps": 1e-5},
    "exaone4": {
        **SLIDING,
        "num_hidden_layers": 4,
        "rope_scaling": None,
        "sliding_window_pattern": "LLGL",
        "layer_types": [*MIXED[:1], *MIXED, *MIXED[:1]],
    },
    "exaone_moe": {
        **SLIDING,
        **EXPERTS,
        "num_shared_experts": 1,
        "is_moe_layer": [False, True],
    },
    "olmo3": SLIDING,
    "afmoe": {**SLIDING, **EXPERTS, "num_dense_layers": 1},
    "mimo_v2_flash": {
        **ROUTED,
        "n_shared_experts": None,
        "hybrid_layer_pattern": [1, 0],
        "moe_layer_freq": [0, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "sliding_window_size": WINDOW,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "layernorm_epsilon": 1e-5,
        "swa_rope_theta": 100.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "head_dim": 16,
        "v_head_dim": 8,
        "swa_head_dim": 16,
        "swa_v_head_dim": 8,
        "partial_rotary_factor": 0.5,
    },
    "step3p5": {
        **SLIDING,
        "num_attention_groups": 2,
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "moe_intermediate_size": 32,
        "share_expert_dim": 32,
        "moe_layers_enum": "1",
        "attention_other_setting": {"num_attention_heads": 4, "num_attention_groups": 2},
    },
    "plamo3": {"head_dim": 8, "window_size": WINDOW, "sliding_window_pattern": 2},
    "llama4": {"text_config": LLAMA_4},
}

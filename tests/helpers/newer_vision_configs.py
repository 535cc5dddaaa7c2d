"""What folders of mlx-vlm's newer architectures hold, as small as these may be."""

from __future__ import annotations

from tests.helpers.vision_configs import (
    HALF,
    IMAGE,
    PARTS,
    SIDE,
    TEXT,
    TOWER,
    VIDEO,
    VOCAB,
    Architecture,
)

_GRIDS = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 1024, "longest_edge": 4096}}
_DOTS_IMAGE = 151665  # which its processor has in its code

NEWER: dict[str, Architecture] = {
    "gemma4": Architecture(
        config={
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "audio_token_id": 304,
            "boi_token_id": 302,
            "eoi_token_id": 303,
            "hidden_size": 32,
            "pad_token_id": 256,
            "text_config": {
                **TEXT,
                "model_type": "gemma4_text",
                "num_hidden_layers": 4,
                "head_dim": 8,
                "global_head_dim": 16,
                "vocab_size_per_layer_input": VOCAB,
                "hidden_size_per_layer_input": 8,
                "num_kv_shared_layers": 2,
                "sliding_window": 24,
                "sliding_window_pattern": 2,
            },
            "vision_config": {
                "model_type": "gemma4_vision",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "head_dim": 8,
                "global_head_dim": 8,
                "patch_size": 8,
                "pooling_kernel_size": 2,
                "position_embedding_size": 64,
                "default_output_length": 70,
            },
        },
        files={
            "processor_config": {
                "image_processor": {
                    "patch_size": 8,
                    "max_soft_tokens": 9,
                    "pooling_kernel_size": 2,
                },
                "video_processor": {
                    "patch_size": 8,
                    "max_soft_tokens": 70,
                    "pooling_kernel_size": 2,
                },
            }
        },
        image="<image_soft_token>",
        video="<|video|>",
        specials={302: "<start_of_image>", 303: "<end_of_image>", 304: "<audio>"},
        tokenizer={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
    ),
    "mistral3": Architecture(
        config={
            "image_token_index": IMAGE,
            "spatial_merge_size": 2,
            "text_config": {**TEXT, "model_type": "mistral", "head_dim": 8},
            "vision_config": {**TOWER, "model_type": "pixtral", "head_dim": 8},
        },
        files={
            "preprocessor_config": {
                "image_processor_type": "PixtralImageProcessor",
                "size": {"longest_edge": SIDE},
                "patch_size": {"height": 8, "width": 8},
                **HALF,
            },
            "processor_config": {"patch_size": 8, "spatial_merge_size": 2},
        },
        image="[IMG]",
        specials={302: "[IMG_BREAK]", 303: "[IMG_END]"},
    ),
    "lfm2_vl": Architecture(
        config={
            "image_token_id": IMAGE,
            "encoder_patch_size": 8,
            "projector_hidden_size": 32,
            "text_config": {
                **TEXT,
                "model_type": "lfm2",
                "layer_types": ["conv", "full_attention"],
                "block_dim": 32,
                "conv_dim": 32,
                "conv_dim_out": 32,
                "block_auto_adjust_ff_dim": False,
                "eos_token_id": 257,
            },
            "vision_config": {**TOWER, "model_type": "lfm2_vl", "num_patches": 16},
        },
        files={
            "preprocessor_config": {
                "encoder_patch_size": 8,
                "downsample_factor": 2,
                "min_image_tokens": 4,
                "max_image_tokens": 9,
                "max_num_patches": 36,
                "tile_size": 32,
            },
        },
        specials={302: "<|image_start|>", 303: "<|image_end|>", 304: "<|img_thumbnail|>"},
        tokenizer={
            "image_token": "<image>",
            "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>",
        },
    ),
    "glm_ocr": Architecture(
        config={
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "image_start_token_id": 302,
            "image_end_token_id": 303,
            "text_config": {
                **{name: value for name, value in TEXT.items() if name != "rope_theta"},
                "model_type": "glm_ocr_text",
                "head_dim": 8,
                "eos_token_id": [257],
                "rope_parameters": {
                    "rope_type": "default",
                    "mrope_section": [1, 1, 2],
                    "partial_rotary_factor": 1.0,
                    "rope_theta": 10000,
                },
            },
            "vision_config": {
                "model_type": "glm_ocr_vision",
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 4,
                "patch_size": 8,
                "image_size": SIDE,
                "out_hidden_size": 32,
            },
        },
        files={"preprocessor_config": {**_GRIDS, "temporal_patch_size": 2, **HALF}},
        image="<|image|>",
        video="<|video|>",
        specials={302: "<|begin_of_image|>", 303: "<|end_of_image|>"},
        template=PARTS.replace("IMAGE", "<|begin_of_image|>IMAGE<|end_of_image|>"),
    ),
    "dots_ocr": Architecture(
        config={
            "image_token_id": _DOTS_IMAGE,
            "video_token_id": VIDEO,
            **TEXT,
            "vocab_size": _DOTS_IMAGE + 1,
            "vision_config": {
                "model_type": "dots_vit",
                "embed_dim": 32,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "patch_size": 8,
            },
        },
        files={
            "preprocessor_config": {
                "image_processor_type": "Qwen2VLImageProcessor",
                "temporal_patch_size": 1,
                **_GRIDS,
                **HALF,
            }
        },
        image="<|imgpad|>",
        video="<|video_pad|>",
        image_id=_DOTS_IMAGE,
    ),
    "paddleocr_vl": Architecture(
        config={
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "vision_start_token_id": 302,
            "vision_end_token_id": 303,
            **TEXT,
            "hidden_size": 1024,  # whatever the projector makes
            "head_dim": 8,
            "use_bias": False,
            "rope_scaling": {
                "rope_type": "default",
                "type": "default",
                "mrope_section": [1, 1, 2],
            },
            "vision_config": {**TOWER, "model_type": "paddleocr_vl"},
        },
        files={
            "preprocessor_config": {
                "patch_size": 8,
                "merge_size": 2,
                "min_pixels": 1024,
                "max_pixels": 4096,
            }
        },
        image="<|IMAGE_PLACEHOLDER|>",
        specials={302: "<|vision_start|>", 303: "<|vision_end|>"},
        template=PARTS.replace("IMAGE", "<|vision_start|>IMAGE<|vision_end|>"),
    ),
    "kimi_vl": Architecture(
        config={
            "media_placeholder_token_id": IMAGE,
            "text_config": {
                **TEXT,
                "model_type": "deepseek_v3",
                "kv_lora_rank": 16,
                "q_lora_rank": 16,
                "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 8,
                "v_head_dim": 8,
                "n_routed_experts": 4,
                "n_shared_experts": 1,
                "num_experts_per_tok": 2,
                "n_group": 1,
                "topk_group": 1,
                "moe_intermediate_size": 32,
                "first_k_dense_replace": 1,
            },
            "vision_config": {
                "model_type": "moonvit",
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 4,
                "patch_size": 8,
                "intermediate_size": 48,
                "init_pos_emb_height": 8,
                "init_pos_emb_width": 8,
            },
        },
        files={},
        image="<|media_pad|>",
    ),
}

"""What folders of mlx-vlm's architectures hold, as small as these may be.

Those of Qwen are in `tests.helpers.vlm`, newer ones in `newer_vision_configs`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VOCAB = 320
IMAGE, VIDEO = 300, 301
"""The tokens that stand for images and videos; those of a byte are the byte."""

SIDE = 32
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SQUARE = {"height": SIDE, "width": SIDE}

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
    "num_channels": 3,
}

PARTS = (
    "{% for message in messages %}{{ message.role }}: "
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% elif part.type == 'video' %}VIDEO"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
ONLY_PARTS = (
    "{% for message in messages %}{{ message.role }}: "
    "{% for part in message.content | selectattr('type', 'equalto', 'image') %}IMAGE{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}"
    "{{ part.text }}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""As LLaVA's own: content that is text and no list of parts writes nothing."""


@dataclass(frozen=True)
class Architecture:
    """What its folder holds.

    Attributes:
        config: `config.json` without the model's type.
        files: other JSON files by name.
        image, video: the text that stands for one, and is one token.
        image_id: that token; another one where the processor knows no other.
        specials: further tokens, by id.
        tokenizer: further settings of the tokenizer.
        template: of its chat, with IMAGE and VIDEO for these texts; None if it has none.
    """

    config: dict[str, Any]
    files: dict[str, Any]
    image: str = "<image>"
    video: str = "<video>"
    image_id: int = IMAGE
    specials: dict[int, str] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    template: str | None = PARTS


_GLM_TOWER = {
    "model_type": "glm4v",
    "image_size": SIDE,
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "out_hidden_size": 32,
    "patch_size": 8,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "in_channels": 3,
}
_CLIP = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_size": SQUARE,
    **HALF,
}
_SIGLIP = {"image_processor_type": "SiglipImageProcessor", "size": SQUARE, **HALF}
_IDEFICS = {
    "do_image_splitting": False,
    "size": {"longest_edge": SIDE},
    "max_image_size": {"longest_edge": SIDE},
    **HALF,
}
_IDEFICS_SPECIALS = {
    302: "<fake_token_around_image>",
    303: "<end_of_utterance>",
    304: "<global-img>",
}

OLDER: dict[str, Architecture] = {
    "llava_next": Architecture(
        config={
            "image_token_index": IMAGE,
            "text_config": {**TEXT, "model_type": "mistral"},
            "vision_config": {**TOWER, "model_type": "clip_vision_model"},
        },
        files={
            "preprocessor_config": {
                **_CLIP,
                "image_processor_type": "LlavaNextImageProcessor",
                "image_grid_pinpoints": [[SIDE, SIDE]],
            },
            "processor_config": {
                "patch_size": 8,
                "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1,
            },
        },
        template=ONLY_PARTS,
    ),
    "llava_onevision": Architecture(
        config={
            "image_token_index": IMAGE,
            "video_token_index": VIDEO,
            "image_grid_pinpoints": [[SIDE, SIDE]],
            "text_config": {**TEXT, "model_type": "qwen2"},
            "vision_config": {**TOWER, "model_type": "siglip_vision_model"},
        },
        files={
            "preprocessor_config": {
                "image_processor_type": "LlavaOnevisionImageProcessor",
                "size": SQUARE,
                "image_grid_pinpoints": [[SIDE, SIDE]],
                **HALF,
            },
            "video_preprocessor_config": {"size": SQUARE, **HALF},
            "processor_config": {
                "num_image_tokens": 16,
                "vision_feature_select_strategy": "full",
            },
        },
    ),
    "idefics3": Architecture(
        config={
            "image_token_id": IMAGE,
            "scale_factor": 2,
            "text_config": {**TEXT, "model_type": "llama"},
            "vision_config": {**TOWER, "model_type": "idefics3_vision"},
        },
        files={
            "preprocessor_config": {"image_processor_type": "Idefics3ImageProcessor", **_IDEFICS},
            "processor_config": {"image_seq_len": 4},
        },
        specials=_IDEFICS_SPECIALS,
    ),
    "smolvlm": Architecture(
        config={
            "image_token_id": IMAGE,
            "scale_factor": 2,
            "text_config": {**TEXT, "model_type": "llama"},
            "vision_config": {**TOWER, "model_type": "smolvlm_vision"},
        },
        files={
            "preprocessor_config": {"image_processor_type": "SmolVLMImageProcessor", **_IDEFICS},
            "processor_config": {"image_seq_len": 4},
        },
        specials=_IDEFICS_SPECIALS,
    ),
    "paligemma": Architecture(
        config={
            "image_token_index": IMAGE,
            "hidden_size": 32,
            "pad_token_id": 256,
            "text_config": {**TEXT, "model_type": "gemma", "head_dim": 8, "num_image_tokens": 16},
            "vision_config": {
                **TOWER,
                "model_type": "siglip_vision_model",
                "projection_dim": 32,
            },
        },
        files={"preprocessor_config": {**_SIGLIP, "image_seq_length": 16}},
        template=None,
    ),
    "gemma3": Architecture(
        config={
            "image_token_index": IMAGE,
            "hidden_size": 32,
            "pad_token_id": 256,
            "text_config": {
                **TEXT,
                "model_type": "gemma3_text",
                "head_dim": 8,
                "query_pre_attn_scalar": 8,
                "sliding_window": 64,
                "sliding_window_pattern": 2,
                "mm_tokens_per_image": 4,
            },
            "vision_config": {**TOWER, "model_type": "siglip_vision_model"},
        },
        files={
            "preprocessor_config": {
                "image_processor_type": "Gemma3ImageProcessor",
                "size": SQUARE,
                **HALF,
            },
            "processor_config": {"image_seq_length": 4},
        },
        image="<image_soft_token>",
        specials={302: "<start_of_image>", 303: "<end_of_image>"},
        tokenizer={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
        template=PARTS.replace("IMAGE", "<start_of_image>"),
    ),
    "pixtral": Architecture(
        config={
            "image_token_index": IMAGE,
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
            "processor_config": {"patch_size": 8},
        },
        image="[IMG]",
        specials={302: "[IMG_BREAK]", 303: "[IMG_END]"},
    ),
    "internvl_chat": Architecture(
        config={
            "image_token_index": IMAGE,
            "downsample_ratio": 0.5,
            "max_dynamic_patch": 1,
            "text_config": {**TEXT, "model_type": "qwen2"},
            "vision_config": {**TOWER, "model_type": "intern_vit_6b"},
        },
        files={},
        image="<IMG_CONTEXT>",
        specials={302: "<img>", 303: "</img>"},
        template=PARTS.replace("IMAGE", "<image>\n"),
    ),
    "mllama": Architecture(
        config={
            "image_token_index": IMAGE,
            "text_config": {
                **TEXT,
                "model_type": "mllama_text_model",
                "vocab_size": VOCAB - 8,
                "cross_attention_layers": [1],
            },
            "vision_config": {
                "image_size": SIDE,
                "patch_size": 8,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "num_attention_heads": 4,
                "vision_output_dim": 64,
                "intermediate_layers_indices": [0],
            },
        },
        files={
            "preprocessor_config": {
                "image_processor_type": "MllamaImageProcessor",
                "size": SQUARE,
                "max_image_tiles": 4,
                **HALF,
            },
        },
        image="<|image|>",
        specials={302: "<|python_tag|>"},
    ),
    "glm4v": Architecture(
        config={
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "vision_start_token_id": 302,
            "vision_end_token_id": 303,
            "text_config": {
                **TEXT,
                "model_type": "glm4v_text",
                "eos_token_id": [257],
                "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 0]},
            },
            "vision_config": _GLM_TOWER,
        },
        files={
            "preprocessor_config": {
                "image_processor_type": "Glm4vImageProcessor",
                "patch_size": 8,
                "temporal_patch_size": 2,
                "merge_size": 2,
                "size": {"shortest_edge": 1024, "longest_edge": 4096},
                **HALF,
            },
        },
        image="<|image|>",
        video="<|video|>",
        specials={302: "<|begin_of_image|>", 303: "<|end_of_image|>"},
    ),
}

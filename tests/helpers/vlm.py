"""Tiny vision models with random weights: they know nothing, but every pixel changes an answer."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_vlm
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten
from mlx_vlm.generate.ar import generate_step
from mlx_vlm.utils import prepare_inputs

from tests.helpers.decoding import CONTEXT_LENGTH, randomize

TINY = Path(__file__).parents[2] / "examples" / "tiny_vlm" / "model"

_TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
_OLD_TEXT = {
    **_TEXT,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "tie_word_embeddings": True,
}
_OLD_VISION = {"depth": 2, "num_heads": 4, "patch_size": 8}
# What each architecture's configuration has instead of the tiny model's.
_CHANGES: dict[str, dict[str, Any]] = {
    "qwen3_vl": {},
    "qwen2_vl": {
        **_OLD_TEXT,
        "vision_config": {**_OLD_VISION, "embed_dim": 32, "hidden_size": 64},
    },
    "qwen2_5_vl": {
        **_OLD_TEXT,
        "vision_config": {
            **_OLD_VISION,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        },
    },
}
KINDS = tuple(_CHANGES)
"""Those that have our attention and vision tower."""

_ROPE = {"rope_theta": 10_000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_HYBRID = {
    "full_attention_interval": 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "rope_parameters": {**_ROPE, "type": "default", "partial_rotary_factor": 1.0},
}
# What the others have in a part of their configuration.
_PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "qwen3_vl_moe": {
        "text_config": {**_EXPERTS, "decoder_sparse_step": 1, "mlp_only_layers": []},
        "vision_config": {},
    },
    "qwen3_5": {"text_config": _HYBRID, "vision_config": {"deepstack_visual_indexes": []}},
    "qwen3_5_moe": {
        "text_config": {**_HYBRID, **_EXPERTS, "shared_expert_intermediate_size": 48},
        "vision_config": {"deepstack_visual_indexes": []},
    },
}
QWENS = (*KINDS, *_PARTS)


def random_vlm(
    folder: Path, kind: str = "qwen3_vl", seed: int = 0, *, endless: bool = False
) -> Path:
    """A model of that kind in a folder of its own, as mlx-vlm loads it.

    Args:
        endless: its end token is one that it can't say, and its context holds an `ENDLESS` answer.
    """
    target = folder / kind
    target.mkdir(parents=True)
    for file in TINY.glob("*.json"):
        shutil.copy(file, target)
    config = json.loads((TINY / "config.json").read_bytes())
    vocabulary = config["text_config"]["vocab_size"]
    config |= {"model_type": kind, "vocab_size": vocabulary, **_CHANGES.get(kind, {})}
    for part, changes in _PARTS.get(kind, {}).items():
        config[part] |= {"model_type": kind, **changes}
    if kind in ("qwen2_vl", "qwen2_5_vl"):
        del config["text_config"]
        config["vision_config"] |= {"model_type": kind}
    if endless:
        _never_end(target, config)
    processor = json.loads((target / "preprocessor_config.json").read_bytes())
    names = {"qwen3_vl": "Qwen3VL", "qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}
    processor["processor_class"] = f"{names.get(kind, 'Qwen3VL')}Processor"
    (target / "config.json").write_text(json.dumps(config))
    (target / "preprocessor_config.json").write_text(json.dumps(processor))
    weights = dict(tree_flatten(randomize(_built(kind, config), 0.15, seed).parameters()))
    mx.save_safetensors(str(target / "model.safetensors"), weights)
    return target


def _never_end(folder: Path, config: dict[str, Any]) -> None:
    config["eos_token_id"] = config["vocab_size"]  # the first id behind the vocabulary
    config.get("text_config", config)["max_position_embeddings"] = CONTEXT_LENGTH
    (folder / "generation_config.json").unlink()  # has the end token, too
    tokenizer = json.loads((folder / "tokenizer_config.json").read_bytes())
    tokenizer |= {"eos_token": "<|never|>", "model_max_length": CONTEXT_LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def _built(kind: str, config: dict[str, Any]) -> Any:
    module = importlib.import_module(f"mlx_vlm.models.{kind}")
    whole = module.ModelConfig.from_dict(json.loads(json.dumps(config)))
    whole.text_config = module.TextConfig.from_dict(config.get("text_config", config))
    whole.vision_config = module.VisionConfig.from_dict(config["vision_config"])
    return module.Model(whole)


class Sequential:
    """mlx-vlm itself, one prompt after the other, in float32."""

    def __init__(self, folder: Path) -> None:
        self.model, self.processor = mlx_vlm.load(str(folder))
        self.model.set_dtype(mx.float32)

    def inputs(self, content: list[dict[str, Any]], fps: float = 2.0) -> dict[str, Any]:
        """What the model gets for one user's message of such parts: PIL images, frames."""
        told = [part if part["type"] == "text" else {"type": part["type"]} for part in content]
        text = self.processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": told}], tokenize=False, add_generation_prompt=True
        )
        images = [part["image"] for part in content if part["type"] == "image"]
        videos = [part["video"] for part in content if part["type"] == "video"]
        known = [
            {"total_num_frames": len(v), "fps": fps, "frames_indices": list(range(len(v)))}
            for v in videos
        ]
        return dict(
            prepare_inputs(
                self.processor,
                images=images or None,
                videos=videos or None,
                prompts=[text],
                add_special_tokens=False,
                **({"video_metadata": known} if videos else {}),
            )
        )

    def generate(self, content: list[dict[str, Any]], max_tokens: int) -> list[int]:
        inputs = self.inputs(content)
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        pixels = inputs.pop("pixel_values", None)
        steps = generate_step(
            ids, self.model, pixels, mask, max_tokens=max_tokens, temperature=0.0, **inputs
        )
        tokens: list[int] = []
        for token, _ in steps:  # which go on behind the end token
            tokens.append(int(token))
            if tokens[-1] == self.processor.tokenizer.eos_token_id:
                break
        return tokens


def image(seed: int = 0, width: int = 64, height: int = 48) -> npt.NDArray[np.uint8]:
    """Random pixels, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def clip(seed: int = 0, frames: int = 6) -> list[npt.NDArray[np.uint8]]:
    """Frames of random pixels."""
    return [image(100 * (seed + 1) + at) for at in range(frames)]

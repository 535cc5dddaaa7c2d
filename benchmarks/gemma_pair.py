"""Gemma 3 with its vision tower and random weights, through our loader and as mlx-vlm has it."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_vlm.utils as mlx_vlm_utils

from benchmarks.models import evaluate, fill
from benchmarks.shapes import VISION
from benchmarks.vision_pair import TINY, NoText, VisionPair
from vllm_mlx import platform
from vllm_mlx.models.loading import load_model

_IMAGE, _BEGIN, _END = "<image_soft_token>", "<start_of_image>", "<end_of_image>"
_NAMES = {"<|image_pad|>": _IMAGE, "<|vision_start|>": _BEGIN, "<|vision_end|>": _END}
"""Of the tiny model's tokens, in Gemma's vocabulary."""
_PAD, _IMAGE_ID = 504, 510


def gemma_pair(shape: str, seed: int) -> VisionPair:
    """One image becomes as many tokens as the shape says, whatever its size."""
    platform.prepare()
    dtype = mx.float32 if platform.backend() == "cpu" else mx.bfloat16
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        config = _write_folder(folder, shape)
        processor = mlx_vlm_utils.load_processor(folder, eos_token_ids=[])
        processor.detokenizer = NoText()
        peers, ours = _model(config), _model(config)
        fill(peers, dtype, seed)
        ours.update(peers.parameters())
        for model in (peers, ours):
            model.eval()
            evaluate(model)
        with _loading(ours, processor):
            loaded = load_model(name)
    loaded.tokenizer.eos_token_ids = set()  # nothing ends an answer
    about = str(dtype).removeprefix("mlx.core.")
    return VisionPair(loaded, peers, processor, f"{shape} (random weights, {about})")


def _write_folder(folder: Path, shape: str) -> dict[str, Any]:
    """All that a checkpoint has but the weights; returns its `config.json`."""
    ids = {"image_token_index": _IMAGE_ID, "pad_token_id": _PAD, "eos_token_id": []}
    config = {**copy.deepcopy(VISION[shape]), **ids}
    config["vocab_size"] = config["text_config"]["vocab_size"]
    side, half = config["vision_config"]["image_size"], [0.5] * 3
    settings = json.loads(_renamed("tokenizer_config.json"))
    settings |= {"image_token": _IMAGE, "boi_token": _BEGIN, "eoi_token": _END}
    settings["chat_template"] = settings["chat_template"].replace(
        f"{_BEGIN}{_IMAGE}{_END}",
        _BEGIN,  # the processor writes the others
    )
    size = {"height": side, "width": side}
    files = {
        "config": config,
        "tokenizer_config": settings,
        "processor_config": {"image_seq_length": config["text_config"]["mm_tokens_per_image"]},
        "preprocessor_config": {
            "image_processor_type": "Gemma3ImageProcessor",
            "size": size,
            "image_mean": half,
            "image_std": half,
        },
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "tokenizer.json").write_text(_renamed("tokenizer.json"))
    return config


def _renamed(name: str) -> str:
    """Return the text of a file of the tiny model, with Gemma's names for tokens."""
    text = (TINY / name).read_text()
    for theirs, ours in _NAMES.items():
        text = text.replace(theirs, ours)
    return text


def _model(config: dict[str, Any]) -> nn.Module:
    module, _ = mlx_vlm_utils.get_model_and_args(config)
    given = copy.deepcopy(config)
    made = module.ModelConfig.from_dict(given)
    made = mlx_vlm_utils.update_module_configs(made, module, given, ["text", "vision"])
    model: nn.Module = module.Model(made)
    return model


@contextmanager
def _loading(model: nn.Module, processor: Any) -> Iterator[None]:
    """Have mlx-vlm load these, whose weights are in no file."""
    theirs = mlx_vlm_utils.load

    def load(*_: Any, **__: Any) -> tuple[Any, Any]:
        return model, processor

    mlx_vlm_utils.load = load
    try:
        yield
    finally:
        mlx_vlm_utils.load = theirs

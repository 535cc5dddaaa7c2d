"""Vision models for benchmarks: a folder, or random weights in a known shape."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_vlm
from mlx_lm import tokenizer_utils
from mlx_vlm.models import qwen3_vl
from mlx_vlm.models.qwen3_vl.processing_qwen3_vl import (
    Qwen3VLImageProcessor,
    Qwen3VLVideoProcessor,
)

from benchmarks.gemma_pair import gemma_pair
from benchmarks.models import evaluate, fill
from benchmarks.shapes import VISION
from benchmarks.vision_pair import TINY, NoText, VisionPair
from vllm_mlx import platform
from vllm_mlx.batching.loaded_model import LoadedModel
from vllm_mlx.models.accelerated import place
from vllm_mlx.models.detokenizer import make_new_detokenizer
from vllm_mlx.models.vision.model import adapt
from vllm_mlx.models.vision.preparation import VisionPreparer


def named_pair(folder: str) -> VisionPair:
    """A local folder or hub id; on a CPU the peer computes in float32, too."""
    peers, processor = mlx_vlm.load(folder)
    ours, _ = mlx_vlm.load(folder)
    return VisionPair(_loaded(folder, place(ours), processor), place(peers), processor, folder)


def random_pair(shape: str, seed: int) -> VisionPair:
    """Weights from N(0, 0.02²), in bfloat16 but on a CPU, and the tokenizer of the tiny model."""
    is_qwen = VISION[shape]["model_type"] == "qwen3_vl"
    return _qwen_pair(shape, seed) if is_qwen else gemma_pair(shape, seed)


def _qwen_pair(shape: str, seed: int) -> VisionPair:
    """The template of the tiny model, and a processor that takes frames in their own size."""
    _, processor = mlx_vlm.load(str(TINY), lazy=True)
    config = json.loads((TINY / "config.json").read_bytes())
    for part in ("text_config", "vision_config"):
        config[part] |= VISION[shape][part]
    patch = config["vision_config"]["patch_size"]
    sizes = {"patch_size": patch, "min_pixels": 4 * patch**2, "max_pixels": 1 << 30}
    processor.image_processor = Qwen3VLImageProcessor(**sizes)
    processor.video_processor = Qwen3VLVideoProcessor(**sizes)
    processor.detokenizer = NoText()
    platform.prepare()
    peers, ours = _model(config), _model(config)
    fill(peers, mx.bfloat16, seed)
    ours.update(peers.parameters())  # the same arrays: what `ours` was made with is not computed
    for model in (peers, ours):
        model.eval()
        evaluate(model)
    name = f"{shape} (random weights, bfloat16)"
    return VisionPair(_loaded(str(TINY), ours, processor), peers, processor, name)


def _loaded(folder: str, model: nn.Module, processor: Any) -> LoadedModel:
    tokenizer = tokenizer_utils.load(Path(folder), eos_token_ids=[])  # nothing ends an answer
    tokenizer.eos_token_ids = set()
    prepare = partial(VisionPreparer, processor, model.config, max_bytes=platform.media_bytes())
    vocabulary = model.config.text_config.vocab_size
    lock = threading.Lock()
    new_detokenizer = make_new_detokenizer(tokenizer, lock)
    return LoadedModel(
        folder, adapt(model), tokenizer, vocabulary, None, new_detokenizer, prepare, lock=lock
    )


def _model(config: dict[str, Any]) -> nn.Module:
    whole = qwen3_vl.ModelConfig.from_dict(config)
    whole.text_config = qwen3_vl.TextConfig.from_dict(config["text_config"])
    whole.vision_config = qwen3_vl.VisionConfig.from_dict(config["vision_config"])
    return qwen3_vl.Model(whole)

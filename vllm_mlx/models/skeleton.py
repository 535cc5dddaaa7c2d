"""`skeleton_of`: a model as its configuration describes it, whose weights are never computed.

`python -m vllm_mlx.models.skeleton FOLDER` prints how many bytes of key-value caches it needs to
answer one token at all, or nothing if its configuration does not tell.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes

from vllm_mlx import platform
from vllm_mlx.batching.runners.cache_budget import in_place_budget
from vllm_mlx.batching.slots.budget import KVBudget
from vllm_mlx.batching.slots.layout import Layout, UnsuitableCacheError
from vllm_mlx.model_files import config_of
from vllm_mlx.models.gguf import gguf_config
from vllm_mlx.scheduler_config import Bounds

HALF = mx.bfloat16  # what weights have at least on a GPU, whatever their configuration says


def skeleton_of(path: Path) -> Any:
    """Return the model in a folder or a GGUF file, in the type that this backend computes in.

    MLX computes an array when it is asked for its values, and nobody asks: of a model of any size
    this takes no memory.

    Raises:
        Exception: whatever an architecture does with a configuration that it does not know.
    """
    if path.suffix.lower() == ".gguf":
        return _typed(llama.Model(llama.ModelArgs.from_dict(gguf_config(path))))
    config = config_of(path)
    if "vision_config" in config:
        return _seeing(config)
    architecture, arguments = _get_classes(config)
    return _typed(architecture(arguments.from_dict(config)))


def _typed(model: Any) -> Any:
    model.set_dtype(platform.weight_dtype() or HALF)
    return model


def _seeing(config: dict[str, Any]) -> Any:
    from mlx_vlm.utils import get_model_and_args, update_module_configs

    from vllm_mlx.models.vision.decoder import Decoder

    package, _ = get_model_and_args(config)
    known = package.ModelConfig.from_dict(config)
    modules = ["text", "vision", "perceiver", "projector", "audio"]
    model = package.Model(update_module_configs(known, package, config, modules))
    return Decoder(_typed(model), lambda: None)


def least_cache_bytes(model: Any) -> int | None:
    """Return the bytes of caches for one token and its answer; None if the model does not tell."""
    try:
        footprint = Layout.of(make_prompt_cache(model)).footprint(model)
    except UnsuitableCacheError:
        budget = in_place_budget(model, Bounds(1, 1, 0))
        return None if budget is None else budget.enough(1, 1)
    return KVBudget(0, footprint, 1).enough(1, 1)


if __name__ == "__main__":
    logging.disable()
    if (least := least_cache_bytes(skeleton_of(Path(sys.argv[1])))) is not None:
        print(least)

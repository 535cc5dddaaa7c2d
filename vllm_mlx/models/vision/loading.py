"""From a folder or hub id to a model that sees, with what prepares its prompts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx_vlm.utils as mlx_vlm_utils
from mlx_lm import tokenizer_utils
from mlx_lm.tokenizer_utils import TokenizerWrapper

from vllm_mlx import platform
from vllm_mlx.batching.media_pool import Preparer
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.models.loading import place
from vllm_mlx.models.vision.model import adapt
from vllm_mlx.models.vision.preparation import VisionPreparer


class LoadedVision(NamedTuple):
    """What `load_model` needs to know of it."""

    model: Any
    tokenizer: TokenizerWrapper
    config: dict[str, Any]
    new_preparer: Callable[[MediaPolicy], Preparer]


def load_vision(path: str, trust_remote_code: bool) -> LoadedVision:
    """Load with mlx-vlm; the language model's attention and MLP are ours where they fit."""
    folder = mlx_vlm_utils.get_model_path(path)
    model, processor = mlx_vlm_utils.load(
        str(folder), lazy=True, trust_remote_code=trust_remote_code
    )
    config = mlx_vlm_utils.load_config(folder, trust_remote_code=trust_remote_code)
    tokenizer = _tokenizer(folder, processor, config, trust_remote_code)
    place(model)
    adapted = adapt(model)
    if adapted is None:
        raise ModelLoadError(f"{config['model_type']} is not supported yet")
    prepare = partial(VisionPreparer, processor, model.config, max_bytes=platform.media_bytes())
    return LoadedVision(adapted, tokenizer, config, prepare)


def _tokenizer(
    folder: Path, processor: Any, config: dict[str, Any], trust_remote_code: bool
) -> TokenizerWrapper:
    eos = mlx_vlm_utils.resolve_eos_token_ids(config.get("eos_token_id"), processor.tokenizer)
    tokenizer = tokenizer_utils.load(
        folder, {"trust_remote_code": trust_remote_code}, eos_token_ids=eos
    )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = getattr(processor, "chat_template", None)
        tokenizer.has_chat_template = tokenizer.chat_template is not None
    return tokenizer

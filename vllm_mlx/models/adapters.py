"""Adapters of mlx-lm's trainer, LoRA and DoRA: put into a model, and merged where that can be."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.utils import load_adapters

from vllm_mlx.adapter import Adapter
from vllm_mlx.errors import ModelLoadError

_LEARNED = {"lora_a", "lora_b", "m"}
_SHOWN = 4  # lines of mlx-lm's list of all that does not fit


def put_in(model: nn.Module, adapter: Adapter) -> None:
    """Put mlx-lm's own layers into a model, with what an adapter has learned.

    Raises:
        ModelLoadError: it was trained on another model.
    """
    try:
        load_adapters(model, str(adapter.folder))
        # Where the file has nothing, mlx-lm leaves random numbers or what the model had.
        weights: Any = mx.load(str(adapter.weights))
        missing = sorted(_learned(model) - weights.keys())
        if missing:
            raise ValueError("\n".join(f"  {name}: not in the file" for name in missing))
    except Exception as error:  # whatever the files or an architecture can raise
        trained_on = adapter.config.model or "one of its shape"
        raise ModelLoadError(
            f"the adapter {str(adapter.folder)!r} does not fit this model, only {trained_on}: "
            f"{_shortened(error)}"
        ) from error


def merge_adapters(model: nn.Module) -> None:
    """Add what adapters have learned to the weights that are plain; a step costs no more then.

    Quantized weights would lose most of it when they are rounded again: their layers stay.
    """
    merged = [
        (name, _merged(module) if _is_plain(base) else _kept(module))
        for name, module in model.named_modules()
        if (base := _base(module)) is not None
    ]
    if merged:
        model.update_modules(tree_unflatten(merged))


class KeptDoRA(nn.Module):
    """A `DoRALinear` around quantized weights, which computes their norms once.

    mlx-lm's makes plain weights of all of them in every step.
    """

    def __init__(self, dora: DoRALinear) -> None:
        super().__init__()
        weight = dora._dequantized_weight().astype(mx.float32)
        learned = (dora.scale * dora.lora_b.T) @ dora.lora_a.T
        self.magnitude = dora.m / mx.linalg.norm(weight + learned, axis=1)
        self.lora_a, self.lora_b = dora.lora_a, dora.scale * dora.lora_b
        self.linear = dora.linear
        if "bias" in self.linear:  # no part of what is scaled
            self.bias = self.linear.pop("bias")

    def __call__(self, x: mx.array) -> mx.array:
        learned = ((x @ self.lora_a) @ self.lora_b).astype(x.dtype)
        y: mx.array = self.magnitude.astype(x.dtype) * (self.linear(x) + learned)
        return y + self.bias if "bias" in self else y


def _learned(model: nn.Module) -> set[str]:
    parameters: Any = tree_flatten(model.parameters())
    return {name for name, _ in parameters if name.rpartition(".")[2] in _LEARNED}


def _base(module: nn.Module) -> Any:
    """Return the layer that an adapter's layer is around; None of any other module."""
    if "lora_a" not in module or not hasattr(module, "fuse"):
        return None
    return module.get("linear", module.get("embedding"))


def _is_plain(layer: nn.Module) -> bool:
    return "scales" not in layer


def _merged(layer: Any) -> nn.Module:
    """Return the plain layer, rounded once: in float16 a norm or a sum is less exact."""
    base = _base(layer)
    dtype = base.weight.dtype
    base.set_dtype(mx.float32)
    fused: nn.Module = layer.fuse()
    fused.set_dtype(dtype)
    return fused


def _kept(layer: Any) -> nn.Module:
    return KeptDoRA(layer) if isinstance(layer, DoRALinear) else layer


def _shortened(error: Exception) -> str:
    lines = f"{type(error).__name__}: {error}".splitlines()
    more = f"\n  and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "\n".join(lines[:_SHOWN]) + more

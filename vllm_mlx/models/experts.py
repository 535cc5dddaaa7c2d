"""Layers of experts by whichever form is fastest, in all architectures that have mlx-lm's or
mlx-vlm's `switch_layers`."""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vllm_mlx import platform
from vllm_mlx.platform.experts import Experts, Multiply
from vllm_mlx.platform.fastest import Fastest, Form

_THEIRS = ("SwitchGLU", "SwitchMLP")


def accelerate_experts(model: nn.Module) -> None:
    """Have all layers of experts compute in the fastest form of this backend."""
    if not platform.expert_forms():
        return
    for module in model.modules():
        theirs: Any = type(module)
        known = theirs.__name__ in _THEIRS and theirs.__module__.endswith(".switch_layers")
        if (
            known
            and not _adapted(module)
            and not (platform.backend() == "cpu" and _quantized(module))
        ):
            layer: Any = module
            layer.__class__ = _ours(theirs)


@functools.cache
def _ours(theirs: Any) -> type[nn.Module]:
    """Return a class for the same attributes, so that weights and their names stay."""
    compute = _fastest(theirs)

    def call(
        self: Any,
        x: mx.array,
        indices: mx.array,
        weights: mx.array | None = None,
        shared: mx.array | None = None,
        residual: Any = None,
    ) -> mx.array:
        routed: mx.array = compute(self, x, indices)
        if weights is None and shared is None and residual is None:
            return routed
        combined: mx.array = self._combine(routed, weights, shared, residual)  # mlx-vlm's
        return combined

    attributes = {"__module__": theirs.__module__, "__call__": call}
    return type(theirs.__name__, (theirs,), attributes)


def _fastest(theirs: Any) -> Form:
    """Choose by a trial among theirs and ours; on a CPU ours is known to be faster."""
    ours = {name: _of_module(multiply) for name, multiply in platform.expert_forms().items()}
    if platform.backend() == "cpu":
        (only,) = ours.values()
        return only
    forms = {"theirs": theirs.__call__, **ours}
    return Fastest("experts", forms, _kind, lambda *arguments: arguments)


def _of_module(multiply: Multiply) -> Form:
    def compute(module: nn.Module, x: mx.array, indices: mx.array) -> mx.array:
        *rows, k = indices.shape
        flat = multiply(experts_of(module), x.reshape(-1, x.shape[-1]), indices.reshape(-1, k))
        return flat.reshape(*rows, k, -1)

    return compute


def experts_of(module: Any) -> Experts:
    into = (module.fc1,) if "fc1" in module else (module.up_proj, module.gate_proj)
    activate = module.activation
    if type(activate).__name__ == "SwiGLU":
        swiglu = platform.operations().swiglu

        def activate(up: mx.array, gate: mx.array) -> mx.array:
            return swiglu(gate, up)

    return Experts(into, activate, module.fc2 if "fc2" in module else module.down_proj)


def _adapted(module: nn.Module) -> bool:
    """Whether an adapter stands around a layer of experts, which is quantized then."""
    return any("lora_a" in layer for layer in module.children().values())


def _quantized(module: nn.Module) -> bool:
    return any("scales" in layer for layer in module.children().values())


def _kind(module: nn.Module, x: mx.array, indices: mx.array) -> Hashable:
    """What decides which form is fastest: the layer's form, and the rows to a power of two."""
    layers = experts_of(module)
    weights = [(layer.weight.dtype, layer.weight.shape) for layer in (*layers.into, layers.out)]
    k = indices.shape[-1]
    return (x.dtype, *weights, k, f"<= {1 << (indices.size // k - 1).bit_length()} rows")

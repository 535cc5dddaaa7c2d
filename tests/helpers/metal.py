"""A machine that says it is a Mac: what MLX would say there, and a GPU that fails as Metal does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from vllm_mlx import platform
from vllm_mlx.platform import device, memory, shapes

OUT_OF_MEMORY = (
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)
TOO_SLOW = (
    "[METAL] Command buffer execution failed: Impacting Interactivity "
    "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
)
M4_MAX = {
    "architecture": "applegpu_g16s",
    "max_buffer_length": 28_991_029_248,
    "max_recommended_working_set_size": 38_654_705_664,
    "memory_size": 51_539_607_552,
    "resource_limit": 499_000,
}


def choose_as_metal(patch: pytest.MonkeyPatch) -> None:
    """Have our code choose what it does on Metal; MLX computes where it did."""
    for module in (platform, device, memory, shapes):
        patch.setattr(module, "backend", lambda: "metal")
    patch.setattr(mx, "device_info", lambda *_: M4_MAX)


class Mac:
    """What MLX says of the device, and what it was told.

    Attributes:
        wired: the limits that were set, in bytes.
    """

    def __init__(self, patch: pytest.MonkeyPatch, **info: Any) -> None:
        self.info = {**M4_MAX, **info}
        self.wired: list[int] = []
        patch.setattr(mx, "default_device", lambda: SimpleNamespace(type=mx.DeviceType.gpu))
        patch.setattr(mx.metal, "is_available", lambda: True)
        patch.setattr(mx, "device_info", lambda *_: self.info)
        patch.setattr(mx, "set_wired_limit", self._wire)

    def _wire(self, limit: int) -> int:
        self.wired.append(limit)
        return 0


class FailingGPU:
    """A model on a GPU that fails as Metal does, and every place where MLX hands it work. Its steps
    are not compiled: it is called in each.

    A command buffer that fails computes nothing of use and says nothing. Metal keeps the failure,
    and MLX raises it when it next begins to encode, whatever that is: once.

    Args:
        model: what it computes while it works.
        error: the text of the failure.
        lag: how often work is handed over before the failure is known.

    Attributes:
        fails_at: numbers of calls of the model, from 1, whose work fails.
        too_wide: rows from which on a decode step fails.
        calls: rows and tokens of each call.
        raised: how often a failure was raised.
        forget: see `SteppedModel`.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, model: Any, error: str = OUT_OF_MEMORY, lag: int = 0
    ) -> None:
        self._model = model
        self.layers = model.layers
        self.fails_at: set[int] = set()
        self.too_wide = 1 << 30
        self.calls: list[tuple[int, int]] = []
        self.raised = 0
        self.forget: Callable[[], object] = lambda: None
        self._error = error
        self._lag = lag
        self._until_known: int | None = None
        patch.setattr(platform, "compiles_steps", lambda: False)
        self._evaluating = {name: getattr(mx, name) for name in ("eval", "async_eval")}
        for name in self._evaluating:
            patch.setattr(mx, name, partial(self._encode, name))

    def __call__(self, tokens: mx.array, cache: Any = None) -> Any:
        self.calls.append((tokens.shape[0], tokens.shape[1]))
        decodes_too_many = tokens.shape[1] == 1 and tokens.shape[0] >= self.too_wide
        if len(self.calls) not in self.fails_at and not decodes_too_many:
            return self._model(tokens, cache=cache)
        self._until_known = self._lag
        garbage = mx.full(tokens.shape, 3)  # in keys and values, too
        return self._model(garbage, cache=cache)[..., ::-1]

    def _encode(self, name: str, *given: Any) -> None:
        if self._until_known == 0:
            self._until_known = None
            self.raised += 1
            raise RuntimeError(self._error)
        self._evaluating[name](*given)
        if self._until_known is not None:
            self._until_known -= 1

"""A machine that says it is a Mac: what MLX would say there, and a GPU that fails as Metal does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

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

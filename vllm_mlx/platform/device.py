"""`backend()`: what MLX computes on here, and the failures of a GPU."""

from __future__ import annotations

from typing import Literal

import mlx.core as mx

Backend = Literal["metal", "cuda", "cpu"]

_FAILED = ("[metal]", "command buffer", "insufficient memory", "out of memory", "malloc")


def backend() -> Backend:
    """The backend that MLX computes on now: that of the default device."""
    if mx.default_device().type == mx.DeviceType.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def is_device_failure(error: BaseException) -> bool:
    """Whether the GPU failed or memory is out, so that nothing it was computing can be trusted.

    Metal keeps what went wrong in one step and raises it when something else is begun, so such an
    error says nothing of what raises it:
    `[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPU...)`.
    """
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(each in said for each in _FAILED)
    )

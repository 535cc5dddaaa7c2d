"""`backend()`: what MLX computes on here, and how its GPU fails."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import mlx.core as mx

_FAILURES = 8  # command buffers that may be on their way, and fail one after the other

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


def is_late_failure(error: BaseException) -> bool:
    """Whether a GPU has kept this, so that something before what raises it may have failed."""
    return isinstance(error, RuntimeError) and "command buffer" in str(error).lower()


def raise_failure(stream: Any = None) -> None:
    """Raise what a GPU has kept of a failure, before what was read is believed.

    Args:
        stream: where it was computed; by default MLX's own.
    """
    if backend() == "metal":
        mx.async_eval(mx.add(mx.array(0), 1, stream=stream))


def recover(streams: Iterable[Any] = ()) -> None:
    """Let all that has failed be reported, also on other streams, and give back what is free."""
    for stream in (None, *streams):
        for _ in range(_FAILURES):
            try:
                mx.synchronize(stream)
                mx.eval(mx.add(mx.array(0), 1, stream=stream))
            except RuntimeError:
                continue
            break
    mx.clear_cache()

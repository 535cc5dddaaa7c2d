"""What differs by MLX backend: Metal, CUDA, or the CPU.

`prepare()` may run at any time, before or after `mlx.core` is first imported elsewhere; every
module of ours that computes calls it, and only the first call works.
"""

from __future__ import annotations

import functools
from typing import Literal

import mlx.core as mx

from vllm_mlx.platform import blas

Backend = Literal["metal", "cuda", "cpu"]


def backend() -> Backend:
    """The backend that MLX computes on now: that of the default device."""
    if mx.default_device().type == mx.DeviceType.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def weight_dtype() -> mx.Dtype | None:
    """The type to load weights as, or None to keep what the checkpoint has.

    float32 on the CPU: MLX's float16, bfloat16 and quantized matmuls do not go through BLAS there
    and are many times slower.
    """
    return mx.float32 if backend() == "cpu" else None


@functools.cache
def prepare() -> None:
    """Make the backend ready: on a Linux CPU, give MLX a fast BLAS (`blas.accelerate`)."""
    if backend() == "cpu":
        blas.accelerate()

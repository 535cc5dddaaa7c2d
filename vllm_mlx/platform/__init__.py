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


def prefill_step_size() -> int:
    """Prompt tokens computed at once; decoding rows and cancelled calls wait that long.

    2,048 is mlx-lm's default. On a CPU core 1,536 tokens of SmolLM2-135M took 16 s at once and 10
    to 14 s in pieces of 256 (128 and 512 were no better), so the smaller piece costs nothing.
    """
    return 256 if backend() == "cpu" else 2048


@functools.cache
def prepare() -> None:
    """Make the backend ready: on a Linux CPU, give MLX a fast BLAS (`blas.accelerate`)."""
    if backend() == "cpu":
        blas.accelerate()

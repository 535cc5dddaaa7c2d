"""What differs by MLX backend: Metal, CUDA, or the CPU.

`prepare()` may run at any time, before or after `mlx.core` is first imported elsewhere; every
module of ours that computes calls it, and only the first call works.
"""

from __future__ import annotations

import functools
import os
from typing import Literal

import mlx.core as mx

from vllm_mlx.platform import blas, cpu
from vllm_mlx.scheduler_config import SchedulerConfig

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


def default_max_num_seqs() -> int:
    """Sequences side by side where nothing is said. Sources: benchmarks/README.md."""
    return {"cpu": 32, "metal": 64, "cuda": 256}[backend()]


def resolve(config: SchedulerConfig | None) -> SchedulerConfig:
    """`config` with this backend's defaults for what it leaves open.

    Call it when the model is in memory: half of what is left is for key-value caches. Sources of
    the numbers: benchmarks/README.md.
    """
    config = config or SchedulerConfig()
    tokens = {"cpu": 512, "metal": 2048, "cuda": 8192}[backend()]
    return SchedulerConfig(
        max_num_seqs=config.max_num_seqs or default_max_num_seqs(),
        max_num_batched_tokens=config.max_num_batched_tokens or tokens,
        kv_cache_bytes=config.kv_cache_bytes or _working_set() // 2,
    )


def refill_share() -> float:
    """The share of a full batch that must be free before more is admitted.

    A GPU takes about as long for the prompt of one as for those of a few.
    """
    return {"cpu": 0.0, "metal": 1 / 32, "cuda": 1 / 16}[backend()]


def prefill_overhead() -> int:
    """Prompt tokens whose computation takes as long as starting one more batch of them does.

    On a GPU a small prefill reads all weights for few tokens and costs as much as some hundred.
    """
    return {"cpu": 8, "metal": 128, "cuda": 512}[backend()]


def sampling_candidates() -> int | None:
    """How many of the likeliest tokens top-p and top-k look at first; None sorts them all.

    On a CPU sorting 49,152 logits takes 4 ms a row, the partition of the first 256 0.3 ms. A GPU
    sorts 256 rows in 2 ms, less than it takes to wait for whether the first few were enough.
    """
    return 256 if backend() == "cpu" else None


def exp(x: mx.array) -> mx.array:
    """`mx.exp`, or what is faster on this backend."""
    return cpu.exp(x) if backend() == "cpu" else mx.exp(x)


def _working_set() -> int:
    """Bytes of memory that MLX may use here beside what it holds already."""
    if backend() == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    info = mx.device_info()
    total = info.get("max_recommended_working_set_size") or info.get("memory_size") or 8 << 30
    return max(1 << 30, int(total) - mx.get_active_memory())


@functools.cache
def prepare() -> None:
    """Make the backend ready: on a Linux CPU, give MLX a fast BLAS (`blas.accelerate`)."""
    if backend() == "cpu":
        blas.accelerate()

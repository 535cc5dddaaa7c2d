"""What differs by MLX backend: Metal, CUDA, or the CPU.

`prepare()` may run at any time, before or after `mlx.core` is first imported elsewhere; every
module of ours that computes calls it, and only the first call works.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from vllm_mlx.platform import (
    attention,
    blas,
    cpu,
    cuda,
    cuda_gated_delta,
    cuda_heads,
    experts,
    gated_delta,
)
from vllm_mlx.platform.attention import Ring
from vllm_mlx.platform.cuda_heads import RotateHeads
from vllm_mlx.platform.device import backend, is_device_failure, raise_failure, recover
from vllm_mlx.platform.memory import cache_limit, left, media_bytes, require_room, wire
from vllm_mlx.platform.shapes import (
    PrefillShapes,
    prefill_shapes,
    refill_share,
    rows_for_experts,
    shrink_below,
    width_tile,
)
from vllm_mlx.scheduler_config import Bounds, SchedulerConfig

__all__ = [
    "Operations",
    "PrefillShapes",
    "backend",
    "cache_limit",
    "chooses_layouts",
    "compiles_steps",
    "default_max_num_seqs",
    "dequantizes",
    "fuses_projections",
    "is_device_failure",
    "make_rotate_heads",
    "media_bytes",
    "operations",
    "prefill_shapes",
    "prefill_step_size",
    "prepare",
    "raise_failure",
    "recover",
    "refill_share",
    "require_room",
    "resolve",
    "sampling_candidates",
    "shrink_below",
    "trial",
    "weight_dtype",
    "width_tile",
    "wire",
]


def weight_dtype() -> mx.Dtype | None:
    """The type to load weights as, or None to keep what the checkpoint has.

    float32 on the CPU: MLX's float16, bfloat16 and quantized matmuls do not go through BLAS there
    and are many times slower.
    """
    return mx.float32 if backend() == "cpu" else None


def dequantizes(nbytes: int) -> bool:
    """Whether quantized weights of so many bytes become plain ones at load.

    Always on a CPU (see `weight_dtype`). On CUDA, MLX multiplies a quantized matrix with B single
    tokens as B separate products: at 32 rows a step of a 4-bit model takes six times as long as in
    bfloat16. So it does there if four times the bytes are at most half of the memory.
    """
    if backend() == "cuda":
        return 8 * nbytes <= left()
    return backend() == "cpu"


def prefill_step_size() -> int:
    """Prompt tokens computed at once; decoding rows and cancelled calls wait that long.

    2,048 is mlx-lm's default. On a CPU core 1,536 tokens of SmolLM2-135M took 16 s at once and 10
    to 14 s in pieces of 256 (128 and 512 were no better), so the smaller piece costs nothing.
    """
    return 256 if backend() == "cpu" else 2048


def default_max_num_seqs() -> int:
    """Sequences side by side by default. Sources: benchmarks/README.md."""
    return {"cpu": 32, "metal": 64, "cuda": 256}[backend()]


def resolve(config: SchedulerConfig, model: Any = None) -> Bounds:
    """`config` with this backend's defaults for what it leaves open, as they suit a model.

    Call it when the model is in memory: half of what is left is for key-value caches. Sources of
    the numbers: benchmarks/README.md.
    """
    tokens = {"cpu": 512, "metal": 2048, "cuda": 8192}[backend()]
    return Bounds(
        max_num_seqs=config.max_num_seqs or max(default_max_num_seqs(), rows_for_experts(model)),
        max_num_batched_tokens=config.max_num_batched_tokens or tokens,
        kv_cache_bytes=config.kv_cache_bytes or left() // 2,
    )


def sampling_candidates() -> int | None:
    """How many of the likeliest tokens top-p and top-k look at first; None sorts them all.

    On a CPU sorting 49,152 logits takes 2 ms a row, the partition of the first 256 0.4 ms. A GPU
    sorts 256 rows in 2 ms, less than it takes to wait for whether the first few were enough.
    """
    return 256 if backend() == "cpu" else None


def trial(chooses_experts: bool = False) -> tuple[int, float]:
    """Tokens of the longest prompt that a model is tried with at load, and how far its
    log-probabilities in a batch may be from those of a row alone.

    A CPU computes in float32, where those of 60 architectures differed by less than 0.001. In
    bfloat16 another width changes them by 0.13 (SmolLM2-135M), a position wrong by 20 by 4.8.
    There rounding decides between experts that score alike: gpt-oss-20b's shape with random
    weights differs by up to 1.5 in slots, and by 0.8 in mlx-lm's own batches of equal prompts.
    """
    if backend() == "cpu":
        return 11, 0.005
    return 64, 2.5 if chooses_experts else 1.0


def fuses_projections() -> bool:
    """Whether linear layers of one input are joined into one product."""
    return backend() == "cuda"


def chooses_layouts() -> bool:
    """Whether the matrices of linear layers are tried in both orders of their numbers."""
    return backend() == "cpu"


def compiles_steps() -> bool:
    """Whether decode steps are compiled.

    On CUDA a step of Gemma-3-4B takes Python 3 to 6 ms to say, of 16 (benchmarks/README.md). A CPU
    takes far longer to compute, and may lack the compiler that this needs there.
    """
    return backend() != "cpu"


class Operations(NamedTuple):
    """What a backend computes in its own way; ask for them once, when a module is made.

    Attributes:
        attend_slots: attention of one new token a slot, `[S, Hq, 1, D]`, over a ring
            `[S, Hk, C, D]`; see `attention.attend_slots`.
        attend_causal: attention of the last L tokens of prompts, `[B, Hq, L, D]`, over
            `[B, Hk, K, D]`; see `attention.attend_causal`.
        swiglu: `silu(gate) * up`.
        exp: `e**x` of float32 numbers.
        argsort: indices that sort each row of `[R, V]`, smallest first.
    """

    attend_slots: Callable[[mx.array, mx.array, mx.array, float, Ring, mx.array | None], mx.array]
    attend_causal: Callable[
        [mx.array, mx.array, mx.array, float, int | None, mx.array | None], mx.array
    ]
    swiglu: Callable[[mx.array, mx.array], mx.array]
    exp: Callable[[mx.array], mx.array]
    argsort: Callable[[mx.array], mx.array] = mx.argsort


def operations() -> Operations:
    """The operations of this backend."""
    if backend() == "cpu":
        return Operations(cpu.attend_slots, cpu.attend_causal, cpu.swiglu, cpu.exp, cpu.argsort)
    if backend() == "cuda":
        return Operations(cuda.attend_slots, cuda.attend_causal, _swiglu, mx.exp)
    return Operations(attention.attend_slots_by_head, attention.attend_causal, _swiglu, mx.exp)


def gated_delta_forms() -> dict[str, gated_delta.Update]:
    """Forms of the gated delta rule that may be faster here than mlx-lm's and mlx-vlm's own.

    Those have a loop over tokens on a CPU and on CUDA. Figures: benchmarks/README.md.
    """
    if backend() == "cpu":
        return {"chunks": gated_delta.make_update(32, 8, cpu.exp)}
    if backend() == "metal":
        return {"mlx": gated_delta.update}
    # Of all forms the fastest for every shape tried there, and a trial of the others takes seconds.
    return {"kernel": cuda_gated_delta.update}


def scan_tokens() -> int | None:
    """Tokens that a state space layer takes in at once; None leaves mlx-lm's 256.

    Each takes part in products and exponentials with all before it: on a CPU 256 tokens of 24
    heads of 64 take 73 ms at once and 31 ms in pieces of 64.
    """
    return 64 if backend() == "cpu" else None


def expert_forms() -> dict[str, experts.Multiply]:
    """Forms of a layer of experts that may be faster here than mlx-lm's, if one is known."""
    if backend() == "cpu":
        return {"tiles": experts.make_tiles((4, 8, 16, 32, 64, 128), counted=True)}
    if backend() == "metal":
        return {}
    # MLX compiles a kernel for each size of a tile.
    tiles = experts.make_tiles((16, 64), counted=False)
    return {"tiles": tiles, "all experts": experts.all_experts}


def make_rotate_heads(
    Hq: int, Hk: int, wavelengths: mx.array, norms: tuple[nn.RMSNorm, nn.RMSNorm] | None
) -> RotateHeads | None:
    """A kernel for `RotateHeads` where MLX's own operations take longer; else None.

    Args:
        wavelengths: float32 `[D / 2]`; a pair of elements turns by position / wavelength radians.
        norms: of the queries' and of the keys' heads.
    """
    if backend() != "cuda":
        return None
    return cuda_heads.make_rotate_heads(Hq, Hk, wavelengths, norms)


@partial(mx.compile, shapeless=True)
def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up


@functools.cache
def prepare() -> None:
    """Make the backend ready: on a Linux CPU, give MLX a fast BLAS (`blas.use_openblas`)."""
    if backend() == "cpu":
        blas.use_openblas()

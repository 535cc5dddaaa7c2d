"""A decode step's queries and keys in one launch on an NVIDIA card.

Cutting the joined projection into heads, normalizing them (Qwen3) and rotating them takes MLX four
to six launches a layer, and a step of a 3B model is bound by its launches (benchmarks/README.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

_WARPS = 8

# One block a slot; its warps take the heads in turn. A lane holds the pairs (i, i + D / 2) of its
# head for i = lane, lane + 32, …, and rotates each by position / wavelength[i] (RoFormer, Su et
# al., 2021, in the form with halves, which Llama and Qwen use).
_SOURCE = """
    constexpr int P = D / 64;
    const int slot = blockIdx.x, lane = threadIdx.x % 32;
    float cosine[P], sine[P];
    for (int p = 0; p < P; ++p)
        sincosf(float(positions[slot]) / wavelengths[lane + 32 * p], &sine[p], &cosine[p]);
    for (int head = threadIdx.x / 32; head < HQ + HK; head += NW) {
        const bool is_query = head < HQ;
        const T* from = joined + (size_t(slot) * (HQ + 2 * HK) + head) * D + lane;
        T* to = (is_query ? queries + (size_t(slot) * HQ + head) * D
                          : keys + (size_t(slot) * HK + head - HQ) * D) + lane;
        float low[P], high[P], squares = 0.0f;
        for (int p = 0; p < P; ++p) {
            low[p] = float(from[32 * p]);
            high[p] = float(from[32 * p + D / 2]);
            squares += low[p] * low[p] + high[p] * high[p];
        }
        if (NORM) {
            for (int w = 16; w > 0; w /= 2) squares += __shfl_xor_sync(0xffffffff, squares, w);
            const float scale = rsqrtf(squares / D + eps[0]);
            const auto* weight = (is_query ? query_weight : key_weight) + lane;
            for (int p = 0; p < P; ++p) {
                low[p] = float(T(low[p] * scale * float(weight[32 * p])));
                high[p] = float(T(high[p] * scale * float(weight[32 * p + D / 2])));
            }
        }
        for (int p = 0; p < P; ++p) {
            to[32 * p] = T(low[p] * cosine[p] - high[p] * sine[p]);
            to[32 * p + D / 2] = T(high[p] * cosine[p] + low[p] * sine[p]);
        }
    }
"""


RotateHeads = Callable[[mx.array, mx.array], tuple[mx.array, mx.array]]
"""From a step's joined projection `[S, 1, (Hq + 2 Hk) D]` and positions `[S]` to queries
`[S, Hq, 1, D]` and keys `[S, Hk, 1, D]`, normalized and rotated."""


def make_rotate_heads(
    Hq: int, Hk: int, wavelengths: mx.array, norms: tuple[nn.RMSNorm, nn.RMSNorm] | None
) -> RotateHeads | None:
    """Return the kernel for heads of this form; None where 32 lanes can't share a head's pairs."""
    if wavelengths.size % 32:
        return None
    weights = [norm.weight for norm in norms] if norms else [wavelengths] * 2  # these are not read
    constants = [wavelengths, *weights, mx.array([norms[0].eps if norms else 0.0])]
    mx.eval(constants)  # lazy constants can't be computed on another thread
    D = 2 * wavelengths.size
    sizes = [("D", D), ("HQ", Hq), ("HK", Hk), ("NW", _WARPS), ("NORM", norms is not None)]

    def rotate(joined: mx.array, positions: mx.array) -> tuple[mx.array, mx.array]:
        S = joined.shape[0]
        queries, keys = _kernel()(
            inputs=[joined, positions, *constants],
            template=[("T", joined.dtype), *sizes],
            grid=(S * _WARPS * 32, 1, 1),
            threadgroup=(_WARPS * 32, 1, 1),
            output_shapes=[(S, Hq, 1, D), (S, Hk, 1, D)],
            output_dtypes=[joined.dtype, joined.dtype],
        )
        return queries, keys

    return rotate


@functools.cache
def _kernel() -> Any:
    return mx.fast.cuda_kernel(
        name="rotate_heads",
        input_names=[
            *("joined", "positions", "wavelengths"),
            *("query_weight", "key_weight", "eps"),
        ],
        output_names=["queries", "keys"],
        source=_SOURCE,
    )

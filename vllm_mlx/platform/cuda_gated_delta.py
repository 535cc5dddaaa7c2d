"""The gated delta rule as one kernel for an NVIDIA card.

Token by token as mlx-lm's kernel for Metal has it: a row's state stays in registers from the first
token to the last, so it is read and written once, whatever the prompt's length.
"""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx

_THREADS = 128
_TOKENS = 8  # read ahead of their use
_MOST_ELEMENTS = 32  # of a state that a thread holds in registers

# One block a row, value head and ROWS of the state's Dv rows. P neighbouring threads share a row of
# the state; each holds E of its D elements, in fours that alternate between them.
_SOURCE = """
    constexpr int E = D / P, ROWS = NT / P;
    const int tokens = q_shape[1];
    const int lane = threadIdx.x % P, local = threadIdx.x / P;
    const int head = blockIdx.y, row = blockIdx.x * ROWS + local;
    const size_t batch = blockIdx.z;
    const bool real = row < DV;
    const size_t place = ((batch * HV + head) * DV + row) * (D / 4) + lane;
    float4 held[E / 4];
    for (int i = 0; i < E / 4; ++i)
        held[i] = real ? reinterpret_cast<const float4*>(state)[place + P * i]
                       : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    __shared__ __align__(16) float keys[U][D], queries[U][D], gates[U][VECTOR ? D : 4];
    __shared__ float values[U][ROWS], betas[U];
    __shared__ int own[U];
    for (int first = 0; first < tokens; first += U) {
        const int count = min(U, tokens - first);
        __syncthreads();
        for (int i = threadIdx.x; i < count * D; i += NT) {
            const int u = i / D, d = i % D;
            const size_t token = batch * tokens + first + u;
            const size_t from = (token * HK + head / (HV / HK)) * D + d;
            keys[u][d] = float(k[from]);
            queries[u][d] = float(q[from]);
            if (VECTOR) gates[u][d] = float(g[(token * HV + head) * D + d]);
        }
        for (int i = threadIdx.x; i < count * ROWS; i += NT) {
            const int u = i / ROWS, at = blockIdx.x * ROWS + i % ROWS;
            const size_t token = batch * tokens + first + u;
            values[u][i % ROWS] = at < DV ? float(v[(token * HV + head) * DV + at]) : 0.0f;
        }
        for (int u = threadIdx.x; u < count; u += NT) {
            const size_t token = batch * tokens + first + u;
            betas[u] = float(beta[token * HV + head]);
            own[u] = MASKED ? int(mask[token]) : 1;
            if (!VECTOR)
                for (int c = 0; c < 4; ++c) gates[u][c] = float(g[token * HV + head]);
        }
        __syncthreads();
        for (int u = 0; u < count; ++u) {
            float found = 0.0f, answer = 0.0f;
            if (own[u]) {
                for (int i = 0; i < E / 4; ++i) {
                    const int at = lane + P * i;
                    const float4 key = reinterpret_cast<const float4*>(keys[u])[at];
                    const float4 gate = reinterpret_cast<const float4*>(gates[u])[VECTOR ? at : 0];
                    held[i].x *= gate.x; held[i].y *= gate.y;
                    held[i].z *= gate.z; held[i].w *= gate.w;
                    found += held[i].x * key.x + held[i].y * key.y
                           + held[i].z * key.z + held[i].w * key.w;
                }
                for (int w = P / 2; w > 0; w /= 2) found += __shfl_xor_sync(0xffffffff, found, w);
                const float delta = (values[u][local] - found) * betas[u];
                for (int i = 0; i < E / 4; ++i) {
                    const int at = lane + P * i;
                    const float4 key = reinterpret_cast<const float4*>(keys[u])[at];
                    const float4 query = reinterpret_cast<const float4*>(queries[u])[at];
                    held[i].x += key.x * delta; held[i].y += key.y * delta;
                    held[i].z += key.z * delta; held[i].w += key.w * delta;
                    answer += held[i].x * query.x + held[i].y * query.y
                            + held[i].z * query.z + held[i].w * query.w;
                }
                for (int w = P / 2; w > 0; w /= 2)
                    answer += __shfl_xor_sync(0xffffffff, answer, w);
            }
            if (real && lane == 0)
                y[((batch * tokens + first + u) * HV + head) * DV + row] = T(answer);
        }
    }
    if (real)
        for (int i = 0; i < E / 4; ++i)
            reinterpret_cast<float4*>(state_out)[place + P * i] = held[i];
"""


def update(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array,
    mask: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """`gated_delta.Update`.

    Raises:
        ValueError: threads can't share a head of this size.
    """
    B, T, Hk, D = k.shape
    Hv, Dv = v.shape[2:]
    lanes = _lanes(D)
    k, v, state = k.astype(q.dtype), v.astype(q.dtype), state.astype(mx.float32)
    y, state = _kernel()(
        inputs=[q, k, v, g, beta, state, beta if mask is None else mask.astype(mx.bool_)],
        template=[
            # MLX finds a compiled kernel by these, so they hold the type of each input.
            *[("T", q.dtype), ("GT", g.dtype), ("BT", beta.dtype)],
            *[("D", D), ("DV", Dv), ("HK", Hk), ("HV", Hv), ("P", lanes)],
            *[("NT", _THREADS), ("U", _TOKENS)],
            *[("VECTOR", g.ndim == 4), ("MASKED", mask is not None)],
        ],
        grid=(-(-Dv * lanes // _THREADS) * _THREADS, Hv, B),
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[(B, T, Hv, Dv), (B, Hv, Dv, D)],
        output_dtypes=[q.dtype, mx.float32],
    )
    return y, state


def _lanes(D: int) -> int:
    """Threads that share a row of D elements."""
    for lanes in (1, 2, 4, 8, 16):
        if D % (4 * lanes) == 0 and D // lanes <= _MOST_ELEMENTS:
            return lanes
    raise ValueError(f"{D} elements can't be shared in fours")


@functools.cache
def _kernel() -> Any:
    return mx.fast.cuda_kernel(
        name="gated_delta",
        input_names=["q", "k", "v", "g", "beta", "state", "mask"],
        output_names=["y", "state_out"],
        source=_SOURCE,
    )

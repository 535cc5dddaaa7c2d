"""What MLX does slowly on an NVIDIA card, written as a kernel of our own.

MLX's attention with a mask reads all columns of the ring, for every slot; of a ring of 1,024
columns whose rows are 200 tokens long that is five times too much. This kernel walks only what
each slot holds.
"""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx

from vllm_mlx.platform import attention
from vllm_mlx.platform.attention import Ring

_LANES = 32
_SHARED_MEMORY = 48 << 10  # bytes a block may take without asking

# One block a slot and key head. Its warps take every NW-th token, newest first; a lane holds D / 32
# elements of each of the G queries that share the key head. Online softmax (Milakov and Gimelshein,
# 2018) a warp, joined over warps in shared memory at the end.
_SOURCE = """
    constexpr int E = D / 32;
    const int head = blockIdx.x, slot = blockIdx.y;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int heads = gridDim.x;
    const int columns = keys_shape[2];
    const int length = lengths[slot] + 1;
    const int column = newest[0];
    const size_t base = (size_t(slot) * heads + head) * columns * D + lane * E;
    float q[G][E], sum[G], top[G], out[G][E];
    for (int g = 0; g < G; ++g) {
        const T* query = queries + ((size_t(slot) * heads + head) * G + g) * D + lane * E;
        sum[g] = 0.0f; top[g] = -1e30f;
        for (int e = 0; e < E; ++e) { q[g][e] = float(query[e]) * scale[0]; out[g][e] = 0.0f; }
    }
    for (int first = warp * U; first < length; first += NW * U) {
        Chunk<T, E> k[U], v[U];
        for (int u = 0; u < U; ++u) {
            const int age = min(first + u, length - 1);
            int at = column - age;
            at = at < 0 ? at + columns : at;
            k[u] = *reinterpret_cast<const Chunk<T, E>*>(keys + base + size_t(at) * D);
            v[u] = *reinterpret_cast<const Chunk<T, E>*>(values + base + size_t(at) * D);
        }
        for (int g = 0; g < G; ++g) {
            float score[U], most = top[g];
            for (int u = 0; u < U; ++u) {
                float dot = 0.0f;
                for (int e = 0; e < E; ++e) dot += q[g][e] * float(k[u].item[e]);
                for (int w = 16; w > 0; w /= 2) dot += __shfl_xor_sync(0xffffffff, dot, w);
                score[u] = first + u < length ? dot : -1e30f;
                most = fmaxf(most, score[u]);
            }
            const float shrink = __expf(top[g] - most);
            top[g] = most;
            sum[g] *= shrink;
            for (int e = 0; e < E; ++e) out[g][e] *= shrink;
            for (int u = 0; u < U; ++u) {
                const float weight = __expf(score[u] - most);
                sum[g] += weight;
                for (int e = 0; e < E; ++e) out[g][e] += weight * float(v[u].item[e]);
            }
        }
    }
    __shared__ float tops[NW][G], sums[NW][G], outs[NW][G][D];
    for (int g = 0; g < G; ++g) {
        if (lane == 0) { tops[warp][g] = top[g]; sums[warp][g] = sum[g]; }
        for (int e = 0; e < E; ++e) outs[warp][g][lane * E + e] = out[g][e];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < G * D; i += NW * 32) {
        const int g = i / D, d = i % D;
        const float sink = sinks[head * G + g];
        float most = sink, value = 0.0f;
        for (int w = 0; w < NW; ++w) most = fmaxf(most, tops[w][g]);
        float total = __expf(sink - most);
        for (int w = 0; w < NW; ++w) {
            const float weight = __expf(tops[w][g] - most);
            total += weight * sums[w][g];
            value += weight * outs[w][g][d];
        }
        attended[((size_t(slot) * heads + head) * G + g) * D + d] = T(value / total);
    }
"""
_HEADER = """
template <typename T, int E> struct alignas(sizeof(T) * E) Chunk { T item[E]; };
"""


@functools.cache
def _kernel() -> Any:
    return mx.fast.cuda_kernel(
        name="attend_slots",
        input_names=["queries", "keys", "values", "lengths", "newest", "scale", "sinks"],
        output_names=["attended"],
        source=_SOURCE,
        header=_HEADER,
    )


def attend_slots(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    ring: Ring,
    sinks: mx.array | None = None,
) -> mx.array:
    """`attention.attend_slots`, over the columns that each slot holds.

    By MLX's own attention where the kernel does not fit: a head dimension that 32 lanes can't
    share, keys and values of unlike shapes, or too many queries a key head.
    """
    S, Hq, _, D = queries.shape
    Hk = keys.shape[1]
    G = Hq // Hk
    warps = _warps(S * Hk, G, D)
    if not warps or keys.shape != values.shape:
        return attention.attend_slots(queries, keys, values, scale, ring, sinks)
    sink = _no_sinks(Hq) if sinks is None else sinks.astype(mx.float32)
    outputs: list[mx.array] = _kernel()(
        inputs=[queries, keys, values, ring.offsets, ring.newest, _array_of(scale), sink],
        template=[("T", queries.dtype), ("D", D), ("G", G), ("NW", warps), ("U", 4)],
        grid=(Hk * warps * _LANES, S, 1),
        threadgroup=(warps * _LANES, 1, 1),
        output_shapes=[queries.shape],
        output_dtypes=[queries.dtype],
    )
    return outputs[0]


def _warps(pairs: int, G: int, D: int) -> int:
    """Warps for each of so many pairs of slot and key head; 0 where shared memory is too small."""
    if D not in (64, 128, 256):
        return 0
    warps = 4 if pairs >= 512 else 8
    while warps and warps * (G * D + 2 * G) * 4 > _SHARED_MEMORY:
        warps //= 2
    return warps


@functools.cache
def _no_sinks(Hq: int) -> mx.array:
    return mx.full((Hq,), -1e30)


@functools.cache
def _array_of(scale: float) -> mx.array:
    return mx.array([scale])


MOST_EXPLICIT = 1024
"""Up to so many keys the scores are written out: cuDNN plans 60 ms for every new shape."""


def attend_causal(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    window: int | None = None,
    sinks: mx.array | None = None,
) -> mx.array:
    """`attention.attend_causal`, written out where there are few keys."""
    B, Hq, L, D = queries.shape
    Hk, K = keys.shape[1], keys.shape[2]
    if K > MOST_EXPLICIT:
        return attention.attend_causal(queries, keys, values, scale, window, sinks)
    grouped = (queries * scale).reshape(B, Hk, (Hq // Hk) * L, D)
    scores = (grouped @ keys.swapaxes(-1, -2)).reshape(B, Hq, L, K)
    seen = attention.causal_mask(L, K, window)
    scores = mx.where(seen, scores, mx.array(-mx.inf, scores.dtype))
    if sinks is not None:
        column = mx.broadcast_to(sinks.astype(scores.dtype).reshape(1, Hq, 1, 1), (B, Hq, L, 1))
        scores = mx.concatenate([scores, column], axis=-1)
    weights = mx.softmax(scores, axis=-1, precise=True)[..., :K].reshape(B, Hk, -1, K)
    return (weights @ values).reshape(B, Hq, L, -1)

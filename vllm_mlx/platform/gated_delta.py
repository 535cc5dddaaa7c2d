"""The gated delta rule in matrix products: many tokens in chunks, or one.

A row's state S `[Dv, Dk]` takes in a token by `S = S g; S += beta (v - S k) k'` and answers with
`S q` (Gated Delta Networks, Yang et al., 2024). Shapes: q and k `[B, T, Hk, Dk]`, v
`[B, T, Hv, Dv]`, g `[B, T, Hv]` or `[B, T, Hv, Dk]`, beta `[B, T, Hv]`, state `[B, Hv, Dv, Dk]`,
mask `[B, T]`: a row's own tokens; what the others answer has no meaning.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import mlx.core as mx

Update = Callable[..., tuple[mx.array, mx.array]]
"""From q, k, v, g, beta, state and mask (or None) to answers `[B, T, Hv, Dv]` and state."""
Elementwise = Callable[[mx.array], mx.array]

_LEAST_GATE = 1e-9
"""A smaller gate counts as this: it leaves nothing of a state in float32 either way."""


def update(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array,
    mask: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """`Update` by MLX itself: in chunks for some shapes on Metal, else token by token."""
    y, state = mx.fast.gated_delta_update(q, k, v, g, beta, state, mask)
    return y, state


def make_update(size: int, vector_size: int, exp: Elementwise) -> Update:
    """Return the gated delta rule for this backend.

    Args:
        size: tokens of a chunk.
        vector_size: tokens of a chunk where the gates are vectors, and each pair of tokens needs
            a number for each of Dk elements.
        exp: `e**x` of float32 numbers.
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
        dtype = q.dtype
        q, k, v, g, beta, state = (x.astype(mx.float32) for x in (q, k, v, g, beta, state))
        scalar = g.ndim == 3
        if scalar:
            g = g[..., None]
        if mask is not None:
            own = mask[..., None]
            beta, g = beta * own, 1 + (g - 1) * own[..., None]
        if q.shape[1] == 1:
            y, state = _step(q, k, v, g, beta, state)
        else:
            products = _scalar_products if scalar else _vector_products
            chunk = functools.partial(_chunk, functools.partial(products, exp), exp)
            y, state = _scan(chunk, size if scalar else vector_size, q, k, v, g, beta, state)
        return y.astype(dtype), state

    return update


def _step(
    q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """Take in one token; the old state is read once for what it holds and once for the new."""
    q, k, v, g, beta = (x[:, 0] for x in (q, k, v, g, beta))
    groups = v.shape[1] // k.shape[1]
    if groups > 1:
        q, k = mx.repeat(q, groups, axis=1), mx.repeat(k, groups, axis=1)
    found = state @ (mx.stack([k, q], axis=-1) * g[..., None])
    delta = (v - found[..., 0]) * beta[..., None]
    y = found[..., 1] + delta * (k * q).sum(axis=-1, keepdims=True)
    state = state * g[:, :, None] + delta[..., None] * k[:, :, None]
    return y[:, None], state


def _scan(
    chunk: Callable[..., tuple[mx.array, mx.array]],
    size: int,
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array,
) -> tuple[mx.array, mx.array]:
    """Take in chunk after chunk, with the state as `[B, Hk, Hv / Hk, Dk, Dv]`."""
    B, T, Hk, Dk = k.shape
    Hv, Dv = v.shape[2:]

    def by_head(x: mx.array) -> mx.array:
        parts = x.swapaxes(1, 2).reshape(B, Hk, x.shape[2] // Hk, T, -1)
        return mx.contiguous(parts)

    parts = [by_head(x) for x in (q, k, v, mx.log(mx.maximum(g, _LEAST_GATE)), beta)]
    state = mx.contiguous(state.reshape(B, Hk, Hv // Hk, Dv, Dk).swapaxes(-1, -2))
    answers = []
    for first in range(0, T, size):
        y, state = chunk(*(x[..., first : first + size, :] for x in parts), state)
        answers.append(y)
    y = mx.concatenate(answers, axis=-2).reshape(B, Hv, T, Dv).swapaxes(1, 2)
    return y, mx.contiguous(state.swapaxes(-1, -2)).reshape(B, Hv, Dv, Dk)


def _chunk(
    products: Callable[..., tuple[mx.array, mx.array]],
    exp: Elementwise,
    q: mx.array,
    k: mx.array,
    v: mx.array,
    logs: mx.array,
    beta: mx.array,
    state: mx.array,
) -> tuple[mx.array, mx.array]:
    """Take in L tokens at once.

    What token i writes, u_i, depends on the writes before it: u = beta (v - S k - A u), with A
    below the diagonal, so u = (I + A)^-1 beta (v - S k): the UT transform (Yang et al., 2024).
    """
    L = k.shape[-2]
    since = mx.cumsum(logs, axis=-2)  # of the gates from the chunk's begin to each token
    to_end = exp(since[..., -1:, :] - since)
    decay = exp(since)
    of_keys, of_queries = products(q, k, since)
    found = mx.concatenate([k * decay, q * decay], axis=-2) @ state
    writes = _invert(of_keys * beta) @ ((v - found[..., :L, :]) * beta)
    y = found[..., L:, :] + of_queries @ writes
    state = state * decay[..., -1:, :].swapaxes(-1, -2)
    return y, state + (k * to_end).swapaxes(-1, -2) @ writes


def _scalar_products(
    exp: Elementwise, q: mx.array, k: mx.array, since: mx.array
) -> tuple[mx.array, mx.array]:
    """Of keys with the keys before them and of queries with keys up to theirs, `[L, L]`, decayed
    by the gates between."""
    L = k.shape[-2]
    lower, strictly = _triangles(L)
    decay = exp((since - since.swapaxes(-1, -2)) * lower)
    both = mx.concatenate([k, q], axis=-2) @ k.swapaxes(-1, -2)
    return both[..., :L, :] * (decay * strictly), both[..., L:, :] * (decay * lower)


def _vector_products(
    exp: Elementwise, q: mx.array, k: mx.array, since: mx.array
) -> tuple[mx.array, mx.array]:
    """`_scalar_products` where each element of a key has its own gate.

    Decays are exponentials of differences, not quotients: those overflow where gates are small.
    """
    lower, strictly = _triangles(k.shape[-2])
    between = (since[..., :, None, :] - since[..., None, :, :]) * lower[..., None]
    decayed = exp(between) * k[..., None, :, :]
    of_keys, of_queries = ((decayed * x[..., :, None, :]).sum(axis=-1) for x in (k, q))
    return of_keys * strictly, of_queries * lower


@functools.cache
def _triangles(L: int) -> tuple[mx.array, mx.array]:
    """Ones on and below the diagonal, and below it."""
    both = mx.tril(mx.ones((L, L))), mx.tril(mx.ones((L, L)), -1)
    mx.eval(both)  # lazy constants can't be computed on another thread
    return both


def _invert(below: mx.array) -> mx.array:
    """`(I + A)^-1` for A below the diagonal, `[..., L, L]`, in products of matrices.

    Blocks on the diagonal are joined two by two: the inverse of `[[P, 0], [B, Q]]` has
    `-Q^-1 B P^-1` below. Powers of A, as fast, overflow where neighbouring keys are alike.
    """
    L = below.shape[-1]
    inverse = mx.eye(L)
    for joint in _joints(L):
        inverse = inverse - inverse @ ((below * joint) @ inverse)
    return inverse


@functools.cache
def _joints(L: int) -> list[mx.array]:
    """Ones where blocks of 1, 2, 4, ... have their lower left neighbour."""
    sizes = [1 << power for power in range((L - 1).bit_length())]
    rows, columns = mx.arange(L)[:, None], mx.arange(L)
    joints = [
        ((rows // size % 2 == 1) & (columns // size == rows // size - 1)).astype(mx.float32)
        for size in sizes
    ]
    mx.eval(joints)
    return joints

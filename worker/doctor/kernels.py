"""What we compute in our own way, beside the plain form of the same: each with real numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.gated_delta import gated_delta_ops
from mlx_lm.models.switch_layers import SwiGLU, SwitchGLU

from vllm_mlx import platform
from vllm_mlx.batching.slots.ring import SlotRing
from vllm_mlx.models.experts import experts_of
from vllm_mlx.platform import attention

TOLERANCES = {mx.float32: 1e-3, mx.bfloat16: 4e-2}
"""How far a kernel may be from the plain form, as a share of the largest number in it."""
HEADS, KEY_HEADS, DIMENSIONS = 8, 2, 64


class Comparison(NamedTuple):
    """A kernel of ours, and how far its numbers are from those of the plain form."""

    name: str
    gap: float
    tolerance: float

    @property
    def is_right(self) -> bool:
        return self.gap <= self.tolerance  # and no NaN


def compare_kernels() -> Iterator[Comparison]:
    """Compute with each kernel of this backend and with its plain form."""
    mx.random.seed(0)
    dtype = platform.weight_dtype() or mx.bfloat16
    for name, compute in _kernels(dtype).items():
        for kind, (found, expected) in compute():
            full = f"{name} ({kind})" if kind else name
            yield Comparison(full, _gap(found, expected), TOLERANCES[dtype])


Pairs = Iterator[tuple[str, tuple[Any, Any]]]


def _kernels(dtype: mx.Dtype) -> dict[str, Callable[[], Pairs]]:
    return {
        "attention of slots": lambda: _slots(dtype),
        "attention of prompts": lambda: _prompts(dtype),
        "activations": lambda: _activations(dtype),
        "sorting": _sorting,
        "gated delta rule": _gated_delta,
        "experts": lambda: _experts(dtype),
        "rotated heads": lambda: _rotated(dtype),
    }


def _slots(dtype: mx.Dtype) -> Pairs:
    ring = SlotRing(5, 256)
    for slot, length in enumerate((3, 200, 0, 77, 130)):
        ring.occupy(slot, length)
    queries = mx.random.normal((5, HEADS, 1, DIMENSIONS)).astype(dtype)
    keys, values = (
        mx.random.normal((5, KEY_HEADS, 256, DIMENSIONS)).astype(dtype) for _ in range(2)
    )
    given = (queries, keys, values, DIMENSIONS**-0.5, ring)
    for kind, sinks in (("", None), ("sinks", mx.random.normal((HEADS,)).astype(dtype))):
        ours = platform.operations().attend_slots(*given, sinks)
        yield kind, (ours, attention.attend_slots(*given, sinks))


def _prompts(dtype: mx.Dtype) -> Pairs:
    queries = mx.random.normal((2, HEADS, 70, DIMENSIONS)).astype(dtype)
    keys, values = (
        mx.random.normal((2, KEY_HEADS, 150, DIMENSIONS)).astype(dtype) for _ in range(2)
    )
    given = (queries, keys, values, DIMENSIONS**-0.5)
    for kind, window in (("", None), ("window", 48)):
        ours = platform.operations().attend_causal(*given, window, None)
        yield kind, (ours, attention.attend_causal(*given, window))


def _activations(dtype: mx.Dtype) -> Pairs:
    gate, up = (3 * mx.random.normal((7, 512)).astype(dtype) for _ in range(2))
    yield "swiglu", (platform.operations().swiglu(gate, up), nn.silu(gate) * up)
    x = mx.random.uniform(-80, 20, (4096,))
    yield "exp", (platform.operations().exp(x), mx.exp(x))


def _sorting() -> Pairs:
    x = mx.random.normal((3, 5000))
    order = platform.operations().argsort(x)
    yield "", (mx.take_along_axis(x, order, axis=-1), mx.sort(x))


def _gated_delta() -> Pairs:
    B, T, Hk, Hv, D = 2, 40, 2, 4, 64
    q, k = (nn.RMSNorm(D)(mx.random.normal((B, T, Hk, D))) / D for _ in range(2))
    v, beta = mx.random.normal((B, T, Hv, D)), mx.random.uniform(shape=(B, T, Hv))
    g = mx.random.uniform(shape=(B, T, Hv)) ** 0.5
    state = mx.random.normal((B, Hv, D, D))
    expected = gated_delta_ops(q, k, v, g, beta, state, None)
    for kind, update in platform.gated_delta_forms().items():
        yield kind, (update(q, k, v, g, beta, state, None), expected)


def _experts(dtype: mx.Dtype) -> Pairs:
    layer = SwitchGLU(64, 128, 8, activation=SwiGLU())
    layer.set_dtype(dtype)
    x, chosen = mx.random.normal((24, 64)).astype(dtype), mx.random.randint(0, 8, (24, 2))
    for kind, multiply in platform.expert_forms().items():
        yield kind, (multiply(experts_of(layer), x, chosen), layer(x, chosen))


def _rotated(dtype: mx.Dtype) -> Pairs:
    wavelengths = 10000.0 ** (mx.arange(DIMENSIONS // 2) / (DIMENSIONS // 2))
    rotate = platform.make_rotate_heads(HEADS, KEY_HEADS, wavelengths, None)
    if rotate is None:
        return
    S, positions = 3, mx.array([0, 5, 300])
    joined = mx.random.normal((S, 1, (HEADS + 2 * KEY_HEADS) * DIMENSIONS)).astype(dtype)
    heads = joined.reshape(S, 1, -1, DIMENSIONS).swapaxes(1, 2)
    plain = mx.fast.rope(
        heads,
        DIMENSIONS,
        traditional=False,
        base=None,
        scale=1.0,
        offset=positions,
        freqs=wavelengths,
    )
    expected = (plain[:, :HEADS], plain[:, HEADS : HEADS + KEY_HEADS])
    yield "", (rotate(joined, positions), expected)


def _gap(found: Any, expected: Any) -> float:
    """Return how far arrays are from each other, as a share of the largest number expected."""
    if not isinstance(expected, tuple):
        found, expected = (found,), (expected,)
    gaps: list[float] = []
    for one, other in zip(found, expected, strict=True):
        one, other = one.astype(mx.float32), other.astype(mx.float32)
        largest = mx.maximum(mx.abs(other).max(), mx.array(1e-9))
        gap: Any = (mx.abs(one - other).max() / largest).item()
        gaps.append(gap)
    return max(gaps)

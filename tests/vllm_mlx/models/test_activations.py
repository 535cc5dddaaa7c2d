"""Activations compute what MLX's do."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.activations import swiglu
from mlx_lm.models.gemma4_text import geglu
from mlx_vlm.models.gpt_oss.language import swiglu as clipped_swiglu

from vllm_mlx import platform
from vllm_mlx.models.activations import ACTIVATIONS
from vllm_mlx.models.rebinding import rebind

X = mx.concatenate([mx.linspace(-120, 120, 997), mx.linspace(-4, 4, 999)])


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = mx.ones(1)

    def silu(self, x):
        return nn.silu(x)

    def gelu_approx(self, x):
        return nn.gelu_approx(x)

    def swiglu(self, x):
        return swiglu(x, x)

    def geglu(self, x):
        return geglu(x, 2 * x)

    def is_linear(self, x):
        return isinstance(x, nn.Linear)


@pytest.mark.parametrize("name", ["silu", "gelu_approx", "swiglu", "geglu"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_as_theirs(name, dtype):
    theirs, ours = Layer(), Layer()
    rebind(ours, ACTIVATIONS)
    assert type(ours) is not Layer
    x = X.astype(dtype)
    found, expected = getattr(ours, name)(x), getattr(theirs, name)(x)
    assert found.dtype == dtype
    assert mx.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_float32_is_ours_and_other_numbers_are_theirs(monkeypatch):
    asked = []
    (_, make), *_ = ACTIVATIONS
    activate = make(swiglu)
    monkeypatch.setattr(mx, "view", lambda *given, view=mx.view: asked.append(1) or view(*given))
    activate(X.astype(mx.bfloat16), X.astype(mx.bfloat16))
    assert not asked
    activate(X, X)
    assert asked


def test_what_only_bears_the_name_stays():
    (_, make), *_ = ACTIVATIONS
    assert make(clipped_swiglu) is clipped_swiglu
    assert make(swiglu) is not swiglu


def test_classes_of_mlx_stay_what_they_are():
    layer = Layer()
    rebind(layer, ACTIVATIONS)
    assert layer.is_linear(nn.Linear(1, 1))


def test_a_gpu_has_theirs(monkeypatch):
    class Other(Layer):
        pass

    monkeypatch.setattr(platform, "backend", lambda: "cuda")
    makers = tuple((name, getattr(make, "__wrapped__", make)) for name, make in ACTIVATIONS)
    layer = Other()
    rebind(layer, makers)
    assert type(layer) is Other

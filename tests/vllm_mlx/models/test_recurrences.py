"""Every architecture with gated delta layers computes them in the form that is fastest."""

from __future__ import annotations

import importlib
import sys

import mlx.core as mx
import pytest
from mlx_lm.models import gated_delta

from vllm_mlx import platform
from vllm_mlx.models.recurrences import dispatch_recurrences


class Layer:
    """Stands in a module that has imported `gated_delta_update`."""


class Model:
    def modules(self):
        return [Layer()]


@pytest.fixture
def namespace(monkeypatch):
    """mlx-lm's module as it is without us."""
    spec = importlib.util.find_spec("mlx_lm.models.gated_delta")
    fresh = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fresh_gated_delta", fresh)
    spec.loader.exec_module(fresh)
    fresh.gated_delta_update.__module__ = "fresh_gated_delta"
    monkeypatch.setattr(
        sys.modules[__name__], "gated_delta_update", fresh.gated_delta_update, raising=False
    )
    return fresh


def arguments(T):
    B, Hk, Hv, D = 2, 2, 4, 32
    q, k = mx.random.normal((B, T, Hk, D)) / D, mx.random.normal((B, T, Hk, D)) / D**0.5
    v = mx.random.normal((B, T, Hv, D))
    a, b = mx.random.normal((B, T, Hv)), mx.random.normal((B, T, Hv))
    return q, k, v, a, b, mx.zeros(Hv), mx.zeros(Hv)


@pytest.mark.parametrize("T", [1, 50])
def test_the_models_own_update_takes_our_forms(namespace, monkeypatch, T):
    asked = []
    ours = platform.gated_delta_forms()["chunks"]

    def counted(*args):
        asked.append(args[0].shape)
        return ours(*args)

    monkeypatch.setattr(platform, "gated_delta_forms", lambda: {"counted": counted})
    given = arguments(T)
    expected = namespace.gated_delta_update(*given)
    dispatch_recurrences(Model())
    y, state = namespace.gated_delta_update(*given)
    assert asked
    assert mx.allclose(y, expected[0], atol=1e-5)
    assert mx.allclose(state, expected[1], atol=1e-5)


def test_masks_are_honoured(namespace):
    given = arguments(20)
    mask = mx.arange(20)[None] < mx.array([20, 7])[:, None]
    _, expected = namespace.gated_delta_update(*(x[1:, :7] for x in given[:5]), *given[5:])
    dispatch_recurrences(Model())
    _, state = namespace.gated_delta_update(*given, mask=mask)
    assert mx.allclose(state[1:], expected, atol=1e-5)


def test_is_put_in_once(namespace):
    dispatch_recurrences(Model())
    ours = namespace.gated_delta_ops
    dispatch_recurrences(Model())
    assert namespace.gated_delta_ops is ours
    assert ours is not gated_delta.gated_delta_ops
    assert ours.__wrapped__.__name__ == "gated_delta_ops"

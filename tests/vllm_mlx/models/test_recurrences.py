"""Every architecture with recurrent layers computes them in the form that is fastest."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import gated_delta, ssm
from mlx_lm.models.gated_delta import gated_delta_update
from mlx_lm.models.ssm import ssm_update
from mlx_vlm.models.qwen3_5 import gated_delta as vlm_gated_delta

from vllm_mlx import platform
from vllm_mlx.models import recurrences
from vllm_mlx.models.rebinding import rebind
from vllm_mlx.models.recurrences import RECURRENCES


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = mx.zeros(1)

    def __call__(self, *given, mask=None):
        return gated_delta_update(*given, mask=mask)

    def scan(self, *given):
        return ssm_update(*given)


def arguments(T):
    mx.random.seed(T)
    B, Hk, Hv, D = 2, 2, 4, 32
    q, k = mx.random.normal((B, T, Hk, D)) / D, mx.random.normal((B, T, Hk, D)) / D**0.5
    v = mx.random.normal((B, T, Hv, D))
    a, b = mx.random.normal((B, T, Hv)), mx.random.normal((B, T, Hv))
    return q, k, v, a, b, mx.zeros(Hv), mx.zeros(Hv)


@pytest.fixture
def layer():
    layer = Layer()
    rebind(layer, RECURRENCES)
    return layer


@pytest.fixture
def counted(monkeypatch):
    """Shapes that a form of ours is asked for, which alone is tried beside theirs."""
    asked = []
    ours = platform.gated_delta_forms()["chunks"]

    def form(*given):
        asked.append(given[0].shape)
        return ours(*given)

    monkeypatch.setattr(platform, "gated_delta_forms", lambda: {"counted": form})
    recurrences._gated_delta_update.cache_clear()
    yield asked
    recurrences._gated_delta_update.cache_clear()


@pytest.mark.parametrize("theirs", [gated_delta, vlm_gated_delta], ids=["mlx-lm", "mlx-vlm"])
@pytest.mark.parametrize("T", [1, 50])
def test_their_update_ends_in_our_forms(counted, theirs, T):
    given = arguments(T)
    expected = theirs.gated_delta_update(*given)
    assert not counted
    found = recurrences._gated_delta_update(theirs.gated_delta_update)(*given)
    assert counted
    for ours, wanted in zip(found, expected, strict=True):
        assert mx.allclose(ours, wanted, atol=1e-5)


def test_a_layer_calls_it(counted):
    layer, given = Layer(), arguments(9)
    expected, _ = layer(*given)
    assert not counted
    rebind(layer, RECURRENCES)
    assert mx.allclose(layer(*given)[0], expected, atol=1e-5)
    assert counted


def test_masks_are_honoured(layer):
    given = arguments(20)
    mask = mx.arange(20)[None] < mx.array([20, 7])[:, None]
    _, expected = gated_delta_update(*(x[1:, :7] for x in given[:5]), *given[5:])
    _, state = layer(*given, mask=mask)
    assert mx.allclose(state[1:], expected, atol=1e-5)


def test_states_in_between_are_theirs():
    """As mlx-vlm's speculative decoding wants them."""
    given = arguments(6)
    update = recurrences._gated_delta_update(vlm_gated_delta.gated_delta_update)
    expected = vlm_gated_delta.gated_delta_update(*given, state_steps=4)
    found = update(*given, state_steps=4)
    assert len(found) == 3
    assert all(mx.allclose(a, b) for a, b in zip(found, expected, strict=True))


def scanned(T, rows=2):
    H, P, N = 4, 8, 16
    mx.random.seed(T)
    b, c = mx.random.normal((rows, T, 1, N)), mx.random.normal((rows, T, 1, N))
    dt, state = mx.random.normal((rows, T, H)), mx.random.normal((rows, H, P, N))
    x = mx.random.normal((rows, T, H, P))
    return [x, mx.zeros(H), b, c, mx.ones(H), dt, mx.zeros(H), state]


def test_a_scan_ends_where_the_row_does(layer):
    given, own = scanned(150), [150, 70, 64, 3, 0]
    given = [mx.repeat(x[:1], len(own), 0) if x.ndim > 1 else x for x in given]
    mask = mx.arange(150) < mx.array(own)[:, None]
    _, states = layer.scan(*given, (0.001, 100.0), mask)
    for row, count in enumerate(own[:-1]):
        alone = [x[:1, :count] if x.ndim > 1 else x for x in given[:-1]]
        _, expected = ssm_update(*alone, given[-1][:1])
        assert mx.allclose(states[row], expected[0], atol=1e-4)
    assert mx.allclose(states[-1], given[-1][0])


@pytest.mark.parametrize("T", [1, 200])
def test_a_scan_takes_fewer_tokens_at_once(layer, monkeypatch, T):
    given = scanned(T)
    expected = ssm_update(*given)
    found = layer.scan(*given)
    assert all(mx.allclose(a, b, atol=1e-4) for a, b in zip(found, expected, strict=True))

    def no_scan(*_, step, **__):
        raise AssertionError(step)

    monkeypatch.setattr(ssm, "ssm_attn", no_scan)
    recurrences._ssm_update.cache_clear()
    with pytest.raises(AssertionError, match="64"):
        recurrences._ssm_update(ssm_update)(*given)
    recurrences._ssm_update.cache_clear()

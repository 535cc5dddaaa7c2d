"""The gated delta rule in chunks, and for one token, computes what mlx-lm's loop computes."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx_lm.models.gated_delta import gated_delta_ops, normalize_qk

from vllm_mlx.platform import cpu, gated_delta

FORMS = {
    "a CPU's": gated_delta.make_update(32, 8, cpu.exp),
    "a GPU's": gated_delta.make_update(64, 16, mx.exp),
}
B, Dk, Dv = 3, 16, 24


def arguments(T, *, Hk=2, Hv=4, vector=False, masked=False, gates=0.5, alike=0.0):
    """What a layer hands over; `alike` is how near the keys are to each other."""
    mx.random.seed(T)
    q, k = mx.random.normal((B, T, Hk, Dk)), mx.random.normal((B, T, Hk, Dk))
    k = alike * mx.ones_like(k) + (1 - alike) * k
    q, k = normalize_qk(q, k, inv_scale=Dk**-0.5, eps=1e-6)
    v = mx.random.normal((B, T, Hv, Dv))
    g = mx.random.uniform(shape=(B, T, Hv, Dk) if vector else (B, T, Hv)) ** gates
    beta = mx.random.uniform(shape=(B, T, Hv))
    state = mx.random.normal((B, Hv, Dv, Dk))
    ends = mx.array([T, max(1, T // 2), T - 1])[:, None]
    mask = mx.arange(T)[None] < ends if masked else None
    return q, k, v, g, beta, state, mask


def assert_same(update, given):
    y, state = update(*given)
    expected_y, expected_state = gated_delta_ops(*given)
    own = mx.ones(y.shape[:2]) if given[-1] is None else given[-1]
    own = own[..., None, None]
    assert y.dtype == expected_y.dtype
    assert mx.allclose(y * own, expected_y * own, rtol=0, atol=1e-4)
    assert mx.allclose(state, expected_state, rtol=0, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("T", [1, 2, 7, 32, 33, 64, 131, 200])
def test_as_the_loop(form, vector, masked, T):
    assert_same(FORMS[form], arguments(T, vector=vector, masked=masked))


@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (2, 6)])
@pytest.mark.parametrize("T", [1, 40])
def test_other_numbers_of_heads(heads, T):
    assert_same(FORMS["a CPU's"], arguments(T, Hk=heads[0], Hv=heads[1]))


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("gates", [0.0, 100.0], ids=["that forget nothing", "that forget all"])
@pytest.mark.parametrize("form", FORMS)
def test_extreme_gates(form, vector, gates):
    assert_same(FORMS[form], arguments(100, vector=vector, gates=gates))


@pytest.mark.parametrize("form", FORMS)
def test_keys_alike(form):
    """Where powers of the matrix that is inverted would overflow."""
    assert_same(FORMS[form], arguments(200, gates=0.0, alike=1.0))


@pytest.mark.parametrize("T", [1, 70])
def test_answers_in_the_type_of_the_queries(T):
    *given, mask = arguments(T)
    q, k, v, g, beta, state = given
    half = [x.astype(mx.bfloat16) for x in (q, k, v)]
    y, new = FORMS["a GPU's"](*half, g, beta.astype(mx.bfloat16), state, mask)
    expected, _ = gated_delta_ops(*half, g, beta.astype(mx.bfloat16), state, mask)
    assert (y.dtype, new.dtype) == (mx.bfloat16, mx.float32)
    assert mx.allclose(y.astype(mx.float32), expected.astype(mx.float32), atol=0.02)

"""Layers of experts compute what mlx-lm's and mlx-vlm's do, in the form that is fastest."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import switch_layers
from mlx_lm.models.gpt_oss import SwigluOAI
from mlx_vlm.models import switch_layers as vlm_layers

from vllm_mlx import platform
from vllm_mlx.models import experts
from vllm_mlx.models.experts import accelerate_experts
from vllm_mlx.platform.experts import all_experts, make_tiles
from vllm_mlx.platform.fastest import Fastest

D, I, E, k = 32, 64, 6, 2  # noqa: E741


class Model(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        for linear in layer.children().values():
            if "bias" in linear:
                linear.bias = mx.random.normal(linear.bias.shape)


LAYERS = {
    "SwiGLU": lambda: switch_layers.SwitchGLU(D, I, E),
    "another activation, biases": lambda: switch_layers.SwitchGLU(
        D, I, E, activation=SwigluOAI(), bias=True
    ),
    "SwitchMLP": lambda: switch_layers.SwitchMLP(D, I, E, bias=True),
    "mlx-vlm": lambda: vlm_layers.SwitchGLU(D, I, E),
}


def rows(*shape, seed=0):
    mx.random.seed(seed)
    x = mx.random.normal((*shape, D))
    return x, mx.argsort(mx.random.normal((*shape, E)), axis=-1)[..., :k]


FORMS = {
    "a CPU's tiles": make_tiles((4, 8, 16), counted=True),
    "a GPU's tiles": make_tiles((16, 64), counted=False),
    "all experts": all_experts,
}


@pytest.fixture
def offer(monkeypatch):
    """What a backend may offer; what was chosen for another one is forgotten."""

    def offer(name, backend="cpu"):
        monkeypatch.setattr(platform, "expert_forms", lambda: {name: FORMS[name]})
        monkeypatch.setattr(platform, "backend", lambda: backend)
        experts._ours.cache_clear()

    yield offer
    experts._ours.cache_clear()


@pytest.fixture(params=FORMS)
def form(request, offer):
    offer(request.param)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("shape", [(1,), (5,), (40,), (2, 30), (3, 1)])
def test_as_theirs(kind, shape, form):
    model = Model(LAYERS[kind]())
    given = rows(*shape)
    expected = model.layer(*given)
    accelerate_experts(model)
    assert model.layer(*given).shape == expected.shape
    assert mx.allclose(model.layer(*given), expected, atol=1e-5)
    assert type(model.layer) not in (switch_layers.SwitchGLU, vlm_layers.SwitchGLU)


def test_rows_that_all_choose_the_same(form):
    model = Model(LAYERS["SwiGLU"]())
    x, _ = rows(9)
    chosen = mx.broadcast_to(mx.array([4, 1]), (9, k))
    expected = model.layer(x, chosen)
    accelerate_experts(model)
    assert mx.allclose(model.layer(x, chosen), expected, atol=1e-5)


def test_weights_and_shared_experts_of_mlx_vlm(form):
    model = Model(LAYERS["mlx-vlm"]())
    x, chosen = rows(2, 30)
    more = {"weights": mx.random.uniform(shape=chosen.shape), "shared": mx.random.normal(x.shape)}
    expected = model.layer(x, chosen, **more)
    accelerate_experts(model)
    assert mx.allclose(model.layer(x, chosen, **more), expected, atol=1e-5)


def test_names_of_weights_stay(form):
    model = Model(LAYERS["SwiGLU"]())
    before = dict(nn.utils.tree_flatten(model.parameters()))
    accelerate_experts(model)
    assert dict(nn.utils.tree_flatten(model.parameters())).keys() == before.keys()
    assert isinstance(model.layer, switch_layers.SwitchGLU)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["a GPU's tiles", "all experts"])
def test_quantized_weights(name, bits, offer):
    """As on CUDA, where the form is chosen by a trial."""
    offer(name, "cuda")
    model = Model(LAYERS["another activation, biases"]())
    nn.quantize(model, group_size=32, bits=bits)
    given = rows(20)
    expected = model.layer(*given)
    accelerate_experts(model)
    assert mx.allclose(model.layer(*given), expected, atol=1e-4)


def test_quantized_weights_are_theirs_on_a_cpu():
    model = Model(LAYERS["SwiGLU"]())
    nn.quantize(model, group_size=32, bits=4)
    accelerate_experts(model)
    assert type(model.layer) is switch_layers.SwitchGLU


def test_a_form_is_chosen_for_each_power_of_two(offer):
    offer("all experts", "cuda")
    compute = experts._fastest(switch_layers.SwitchGLU)
    assert isinstance(compute, Fastest)
    layer = LAYERS["SwiGLU"]()
    for count in (1, 30, 32, 600):
        given = rows(count)
        assert mx.allclose(compute(layer, *given), layer(*given), atol=1e-5)
    assert {kind[-1] for kind in compute._chosen} == {"<= 1 rows", "<= 32 rows", "<= 1024 rows"}
    assert compute._chosen[experts._kind(layer, *rows(600))] is switch_layers.SwitchGLU.__call__


@pytest.mark.parametrize("count", [600, 1])
def test_many_rows_and_one(count, offer):
    offer("a GPU's tiles")
    model = Model(LAYERS["SwiGLU"]())
    given = rows(count)
    expected = model.layer(*given)
    accelerate_experts(model)
    assert mx.allclose(model.layer(*given), expected, atol=1e-5)


def test_all_experts_of_many_rows_are_refused():
    layer = LAYERS["SwiGLU"]()
    with pytest.raises(ValueError, match="600 rows"):
        all_experts(experts.experts_of(layer), *rows(600))

"""Matrices in another order in memory are the same matrices."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from vllm_mlx import platform
from vllm_mlx.models import layouts

V, D = 1030, 1024  # more rows than are moved at once, and no multiple of them


class Model(nn.Module):
    def __init__(self, ties: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.positions = nn.Embedding(V + 1, D)
        self.layers = [nn.Linear(D, V + 2), nn.Linear(V + 2, D), nn.Linear(D, 4)]
        self.unused = nn.Linear(D, V + 3)
        if not ties:
            self.head = nn.Linear(D, V, bias=False)

    def __call__(self, tokens: mx.array) -> list[mx.array]:
        x = self.embedding(tokens) + self.positions(tokens)
        head = self.head(x) if "head" in self else self.embedding.as_linear(x)
        wide = self.layers[0](x)
        return [x, head, wide, self.layers[1](wide), self.layers[2](x)]


def is_by_columns(weight: mx.array) -> bool:
    """Whether a column's numbers follow each other in memory."""
    return memoryview(weight).strides[0] == weight.itemsize


def turned(model: nn.Module) -> list[str]:
    parameters: Any = dict(model.named_modules())
    return sorted(
        name
        for name, module in parameters.items()
        if "weight" in module and is_by_columns(module.weight)
    )


@pytest.fixture
def columns_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_seconds", lambda weight: 2 - is_by_columns(weight))


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.usefixtures("columns_are_faster")
def test_large_matrices_whose_rows_are_pages_are_kept_by_columns(ties: bool) -> None:
    """Not what is only looked up in, nor what a call leaves out."""
    model, tokens = Model(ties), mx.array([[0, 3, V - 1]])
    before = model(tokens)
    shapes = [layer.weight.shape for layer in (model.embedding, *model.layers)]
    layouts.lay_out(model, model)
    assert turned(model) == (["embedding", "layers.0"] if ties else ["head", "layers.0"])
    assert [layer.weight.shape for layer in (model.embedding, *model.layers)] == shapes
    assert {type(module) for module in model.modules()} == {Model, nn.Embedding, nn.Linear}
    for one, other in zip(before, model(tokens), strict=True):
        assert mx.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    "seconds", [is_by_columns, lambda weight: 1 - 0.05 * is_by_columns(weight)]
)
def test_what_is_not_clearly_faster_by_columns_stays(
    monkeypatch: pytest.MonkeyPatch, seconds: Any
) -> None:
    monkeypatch.setattr(layouts, "_seconds", seconds)
    model = Model(True)
    weights = [model.embedding.weight, *(layer.weight for layer in model.layers)]
    layouts.lay_out(model, model)
    now = [model.embedding.weight, *(layer.weight for layer in model.layers)]
    assert all(one is other for one, other in zip(weights, now, strict=True))


def test_whichever_is_faster_here_answers_as_before() -> None:
    """With a real clock."""
    model, tokens = Model(True), mx.array([[5, 7]])
    before = model(tokens)
    layouts.lay_out(model, model)
    assert set(turned(model)) <= {"embedding", "layers.0"}
    for one, other in zip(before, model(tokens), strict=True):
        assert mx.allclose(one, other, atol=1e-5)


@pytest.mark.usefixtures("columns_are_faster")
def test_a_gpu_tries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "chooses_layouts", lambda: False)
    model = Model(True)
    layouts.lay_out(model, model)
    assert turned(model) == []


@pytest.mark.usefixtures("columns_are_faster")
def test_a_model_that_can_not_be_called_stays_as_it_is() -> None:
    def fail(tokens: mx.array) -> None:
        raise ValueError("it takes more than tokens")

    model = Model(True)
    layouts.lay_out(model, fail)
    assert turned(model) == []

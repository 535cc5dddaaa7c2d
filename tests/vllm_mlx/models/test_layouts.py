"""Matrices in another order in memory are the same matrices."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

from vllm_mlx import platform
from vllm_mlx.models import layouts

V, D = 1030, 512  # more rows than are moved at once, and no multiple of it


class Tied(nn.Module):
    def __init__(self, ties: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.layer = nn.Linear(D, 2 * D)
        self.small = nn.Linear(D, 4)
        if not ties:
            self.head = nn.Linear(D, V, bias=False)

    def __call__(self, tokens: mx.array) -> list[mx.array]:
        x = self.embedding(tokens)
        head = self.head(x) if "head" in self else self.embedding.as_linear(x)
        return [x, head, self.layer(x), self.small(x)]


def is_by_columns(weight: mx.array) -> bool:
    """Whether a column's numbers follow each other in memory."""
    return memoryview(weight).strides[0] == weight.itemsize


@pytest.fixture
def columns_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_seconds", lambda weight: 1 - is_by_columns(weight))


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.usefixtures("columns_are_faster")
def test_what_is_multiplied_is_kept_by_columns_and_answers_as_before(ties: bool) -> None:
    model, tokens = Tied(ties), mx.array([0, 3, V - 1])
    before = model(tokens)
    shapes = model.layer.weight.shape, model.embedding.weight.shape
    layouts.lay_out(model)
    assert is_by_columns(model.layer.weight)
    assert is_by_columns(model.embedding.weight) == ties  # without, it is only looked up in
    assert ties or is_by_columns(model.head.weight)
    assert not is_by_columns(model.small.weight)
    assert (model.layer.weight.shape, model.embedding.weight.shape) == shapes
    for one, other in zip(before, model(tokens), strict=True):
        assert mx.allclose(one, other, atol=1e-5)


def test_what_is_slower_by_columns_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_seconds", is_by_columns)
    model = Tied(True)
    weights = model.layer.weight, model.embedding.weight
    layouts.lay_out(model)
    assert (model.layer.weight, model.embedding.weight) == weights


@pytest.mark.usefixtures("columns_are_faster")
def test_a_gpu_tries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "chooses_layouts", lambda: False)
    model = Tied(True)
    layouts.lay_out(model)
    assert not is_by_columns(model.layer.weight)

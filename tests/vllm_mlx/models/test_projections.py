"""Layers that are given the same array are one product, and the model says what it said."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

from tests.helpers.architectures import ARCHITECTURES, KINDS
from tests.helpers.text_folders import new_model
from vllm_mlx import platform
from vllm_mlx.models.accelerated import accelerate
from vllm_mlx.models.projections import Joined, Part, join_projections

TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])
X = mx.random.normal((2, 3, 8), key=mx.random.key(1))


@pytest.fixture(autouse=True)
def joining(monkeypatch):
    monkeypatch.setattr(platform, "fuses_projections", lambda: True)


class Layer(nn.Module):
    def __init__(self, bias=False):
        super().__init__()
        self.one, self.two = nn.Linear(8, 4, bias), nn.Linear(8, 6, bias)
        self.other, self.out = nn.Linear(8, 8, not bias), nn.Linear(10, 8, bias)
        self.again = nn.Linear(8, 8, bias)

    def __call__(self, x):
        x = self.again(self.again(x)) + self.other(x)
        return self.out(mx.concatenate([self.one(x), self.two(x)], axis=-1))


def joined_layer(bias):
    layer = Layer(bias)
    expected = layer(X)
    join_projections(layer, lambda tokens: layer(X[:, :1]))
    return layer, expected


@pytest.mark.parametrize("bias", [False, True])
def test_those_given_the_same_array_are_joined(bias):
    layer, expected = joined_layer(bias)
    kinds = {name: type(each) for name, each in layer.items()}
    assert kinds.pop("joined_one_two") is Joined
    assert {name for name, kind in kinds.items() if kind is Part} == {"one", "two"}
    assert mx.allclose(layer(X), expected, atol=1e-6)
    assert layer.two.weight.shape == (6, 8)


def test_a_part_alone_or_twice_or_of_another_array():
    layer, _ = joined_layer(bias=True)
    plain = Layer(bias=True)
    plain.one.weight, plain.one.bias = layer.one.weight, layer.one.bias
    plain.two.weight, plain.two.bias = layer.two.weight, layer.two.bias
    for name, x in [("one", X), ("one", X), ("two", X + 1), ("two", X), ("one", X + 1)]:
        assert mx.allclose(layer[name](x), plain[name](x), atol=1e-6)


def test_what_was_computed_is_held_until_all_of_it_was_asked_for():
    layer, _ = joined_layer(bias=False)
    layer.one(X)
    assert layer.joined_one_two._given is X
    layer.two(X)
    assert layer.joined_one_two._given is None
    assert not layer.joined_one_two._parts


def test_a_model_that_cannot_be_followed_stays_as_it_is():
    layer = Layer()

    def call(tokens):
        layer(X)
        raise KeyError("of its own")

    join_projections(layer, call)
    assert type(layer.one) is nn.Linear


NAMES = [
    name if name in KINDS.values() else pytest.param(name, marks=pytest.mark.slow)
    for name in ARCHITECTURES
]


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_says_what_it_said(name):
    model = new_model(name)
    expected = model(TOKENS)
    accelerate(model)
    assert mx.allclose(model(TOKENS), expected, atol=2e-4)

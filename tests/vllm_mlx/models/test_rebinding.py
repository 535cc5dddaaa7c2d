"""A model's own code calls what we put in the place of a function; nobody else's does."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from vllm_mlx.models.rebinding import rebind, rebound


def double(x):
    return 2 * x


def countdown(n):
    return [n, *(countdown(n - 1) if n > sum([]) else [])]


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = double(mx.ones(1))

    def __call__(self, x, *, scale=1):
        return double(x) * scale

    def within(self, x):
        return [double(each) for each in x]

    def other(self, x):
        return x


class Derived(Layer):
    def __call__(self, x, *, scale=1):
        return super().__call__(x, scale=scale) + 1

    def within(self, x):
        return x


class Empty(nn.Module):
    def __call__(self, x):
        return double(x)


def triple(theirs):
    return lambda x: theirs(x) + x


MAKERS = (("double", triple),)


def rebound_layer(layer):
    rebind(layer, MAKERS)
    return layer


def test_methods_call_ours():
    layer = rebound_layer(Layer())
    assert layer(2) == 6
    assert layer(2, scale=10) == 60
    assert layer.within([1, 2]) == [3, 6]
    assert layer.other(5) == 5
    assert layer.weight.item() == 2
    assert isinstance(layer, Layer)


def test_nobody_else_calls_ours():
    rebound_layer(Layer())
    assert Layer()(2) == 4
    assert double(2) == 4


def test_layers_within_and_lists_of_them():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [Layer(), Layer()]

    model = Model()
    rebind(model, MAKERS)
    assert [layer(1) for layer in model.layers] == [3, 3]
    assert type(model) is Model
    assert type(model.layers[0]) is type(model.layers[1])


def test_inherited_and_overridden_methods():
    layer = rebound_layer(Derived())
    assert layer(2) == 5  # `super()` is theirs still: the method that calls `double` is overridden
    assert layer.within([1]) == [1]


def test_what_holds_nothing_stays():
    layer = Empty()
    rebind(layer, MAKERS)
    assert type(layer) is Empty


def test_twice_changes_nothing_more():
    layer = rebound_layer(Layer())
    rebind(layer, (("double", lambda theirs: theirs),))
    assert layer(2) == 6


def test_a_maker_may_leave_what_it_is_given():
    layer = Layer()
    rebind(layer, (("double", lambda theirs: theirs), ("no such name", triple)))
    assert type(layer) is Layer


def test_a_function_calls_itself_as_rebound():
    ours = rebound(countdown, {"sum": lambda _: 2})
    assert ours(4) == [4, 3, 2]
    assert countdown(2) == [2, 1, 0]

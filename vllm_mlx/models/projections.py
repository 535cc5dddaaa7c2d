"""Linear layers that are given the same array, as one matrix product, whatever the architecture.

A GPU is launched once for queries, keys and values, or for an MLP's gate and its other half; which
layers those are is seen by following a call of the model. Each stays where its architecture looks
for it, as a `Part`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vllm_mlx import platform
from vllm_mlx.models.following import products_of


def join_projections(model: nn.Module, call: Callable[[mx.array], Any]) -> None:
    """Compute linear layers of one module that are given the same array as one product.

    Args:
        call: the model with tokens `[B, L]`; what it returns is not computed.
    """
    if platform.fuses_projections():
        for parent, names in _given_the_same(model, call):
            joined = Joined([parent[name] for name in names])
            for place, name in enumerate(names):
                parent[name] = Part(joined, place)
            parent["joined_" + "_".join(names)] = joined


class Joined(nn.Module):
    """Linear layers `[N_i, D]` with their weights in one matrix `[sum of N_i, D]`."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.cuts = [0]
        for layer in layers:
            self.cuts.append(self.cuts[-1] + layer.weight.shape[0])
        self.weight = mx.concatenate([layer.weight for layer in layers])
        if "bias" in layers[0]:
            self.bias = mx.concatenate([layer.bias for layer in layers])
        mx.eval(self.parameters())
        self._given: mx.array | None = None
        self._parts: dict[int, mx.array] = {}

    def __call__(self, x: mx.array) -> mx.array:
        """Return all outputs side by side, `[..., sum of N_i]`."""
        weight = self.weight.T
        return mx.addmm(self.bias, x, weight) if "bias" in self else x @ weight

    def part(self, place: int, x: mx.array) -> mx.array:
        """Return one layer's output; the others are kept until they are asked for."""
        if x is not self._given or place not in self._parts:
            parts = mx.split(self(x), self.cuts[1:-1], axis=-1)
            self._given, self._parts = x, dict(enumerate(parts))
        output = self._parts.pop(place)
        if not self._parts:
            self._given = None
        return output


class Part(nn.Module):
    """One of the layers of a `Joined`."""

    def __init__(self, joined: Joined, place: int) -> None:
        super().__init__()
        self.place = place
        self.joined: Joined
        object.__setattr__(self, "joined", joined)  # no child: the module around it has it

    def __call__(self, x: mx.array) -> mx.array:
        return self.joined.part(self.place, x)

    @property
    def weight(self) -> mx.array:
        cuts: mx.array = self.joined.weight[self._rows]
        return cuts

    @property
    def bias(self) -> mx.array:
        cuts: mx.array = self.joined.bias[self._rows]
        return cuts

    @property
    def _rows(self) -> slice:
        first, end = self.joined.cuts[self.place : self.place + 2]
        return slice(first, end)


def _given_the_same(
    model: nn.Module, call: Callable[[mx.array], Any]
) -> Iterator[tuple[nn.Module, list[str]]]:
    """Modules with the names of layers that took the same array, each once."""
    layers = {
        id(layer): (parent, name)
        for parent in model.modules()
        for name, layer in parent.items()
        if type(layer) is nn.Linear
    }
    groups: dict[Any, list[str]] = defaultdict(list)
    calls = products_of([parent[name] for parent, name in layers.values()], call)
    times = Counter(id(layer) for layer, _ in calls)
    for layer, x in calls:
        if times[id(layer)] == 1:
            parent, name = layers[id(layer)]
            alike = layer.weight.dtype, "bias" in layer
            groups[id(parent), id(x), alike].append(name)
    for (parent_id, *_), names in groups.items():
        if len(names) > 1:
            yield next(parent for parent, _ in layers.values() if id(parent) == parent_id), names

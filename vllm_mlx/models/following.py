"""`products_of`: which layers a call of a model multiplies with, whatever the architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn


def products_of(
    layers: Iterable[nn.Module], call: Callable[[mx.array], Any]
) -> list[tuple[Any, mx.array]]:
    """Return those of some linear layers and embeddings that are multiplied, in order.

    Args:
        call: the model with tokens `[B, L]`; what it returns is not computed.

    Returns:
        Each with what it is given; none where the call fails.
    """
    products: list[tuple[Any, mx.array]] = []

    class Linear(nn.Linear):
        def __call__(self, x: mx.array) -> mx.array:
            products.append((self, x))
            output: mx.array = super().__call__(x)
            return output

    class Embedding(nn.Embedding):
        def as_linear(self, x: mx.array) -> mx.array:
            products.append((self, x))
            output: mx.array = super().as_linear(x)
            return output

    followed: dict[type, type] = {nn.Linear: Linear, nn.Embedding: Embedding}
    kinds = [(layer, type(layer)) for layer in layers]
    for layer, kind in kinds:
        layer.__class__ = followed[kind]
    try:
        call(mx.array([[0]]))  # as few as a step has: more would try the forms of other sizes
    except Exception:  # whatever an architecture does; the trial of its runner says what
        return []
    finally:
        for layer, kind in kinds:
            layer.__class__ = kind
    return products

"""Layers of experts, of which each row takes the few that its router chose.

mlx-lm multiplies each row with each of its experts (`gather_mm`). Shapes: R rows, k chosen of E
experts, D and I elements of a row outside and inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np


class Experts(NamedTuple):
    """A layer of experts.

    Attributes:
        into: mlx-lm's `SwitchLinear`s or `QuantizedSwitchLinear`s that take a row.
        activate: what makes one of their outputs.
        out: the one that takes this.
    """

    into: tuple[Any, ...]
    activate: Callable[..., mx.array]
    out: Any


Multiply = Callable[[Experts, mx.array, mx.array], mx.array]
"""From experts, rows `[R, D]` and what each has chosen `[R, k]` to outputs `[R, k, D]`."""

_MOST_ROWS = 512
"""With more, all experts of all rows take longer than those chosen, whatever the kernel."""


def by_expert(experts: Experts, x: mx.array, chosen: mx.array) -> mx.array:
    """`Multiply` expert by expert, each with the rows that chose it.

    A CPU then reads each expert's weights once, not once a row. Plain weights only; the choice is
    looked at, so the model's computing is waited for in each layer.
    """
    R, k = chosen.shape
    flat = np.array(chosen).reshape(-1)
    order = np.argsort(flat, kind="stable")
    groups = _groups(flat[order])
    inputs = x[mx.array(order // k)]
    hidden = [_products(layer, inputs, groups) for layer in experts.into]
    outputs = _products(experts.out, experts.activate(*hidden), groups)
    place = np.empty_like(order)
    place[order] = np.arange(R * k)
    return outputs[mx.array(place)].reshape(R, k, -1)


def _groups(sorted_choice: np.ndarray[Any, Any]) -> list[tuple[int, slice]]:
    """Each expert that was chosen, with its rows."""
    chosen, firsts = np.unique(sorted_choice, return_index=True)
    ends = [*firsts[1:].tolist(), sorted_choice.size]
    rows = (slice(*bounds) for bounds in zip(firsts.tolist(), ends, strict=True))
    return list(zip(chosen.tolist(), rows, strict=True))


def _products(layer: Any, x: mx.array, groups: list[tuple[int, slice]]) -> mx.array:
    weights, products = layer.weight, []
    for expert, rows in groups:
        weight = weights[expert : expert + 1].squeeze(0)  # `weights[expert]` copies it
        product = x[rows] @ weight.T
        if "bias" in layer:
            product = product + layer.bias[expert]
        products.append(product)
    return mx.concatenate(products)


def all_experts(experts: Experts, x: mx.array, chosen: mx.array) -> mx.array:
    """`Multiply` all rows with all experts, and take what was chosen.

    A GPU reads all weights in either case once some rows have chosen, and a product of few rows
    costs what its weights cost to read. Nothing is sorted.

    Raises:
        ValueError: so many rows, or a form of quantization that MLX has for chosen experts only.
    """
    R = x.shape[0]
    if R > _MOST_ROWS:
        raise ValueError(f"{R} rows")
    hidden = [_product_of_all(layer, x[None]) for layer in experts.into]
    outputs = _product_of_all(experts.out, experts.activate(*hidden))
    taken: mx.array = outputs[chosen, mx.arange(R)[:, None]]
    return taken


def _product_of_all(layer: Any, x: mx.array) -> mx.array:
    """`[1 or E, R, ...]` to `[E, R, ...]`."""
    if layer.get("global_scale") is not None:
        raise ValueError("a scale for each expert")
    if "scales" in layer:
        form = {name: getattr(layer, name) for name in ("group_size", "bits", "mode")}
        product = mx.quantized_matmul(
            x, layer.weight, layer.scales, layer.get("biases"), transpose=True, **form
        )
    else:
        product = x @ layer.weight.swapaxes(-1, -2)
    return product + layer.bias[:, None] if "bias" in layer else product

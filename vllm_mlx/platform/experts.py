"""Layers of experts, of which each row takes the few that its router chose.

mlx-lm multiplies row by row with each of its experts, sorted if many: a CPU then reads an expert's
weights once a row, and the kernel that CUDA has for it is far from the memory's speed. Shapes: R
rows, k chosen of E experts, D elements of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx


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


def make_tiles(sizes: Sequence[int], *, counted: bool) -> Multiply:
    """Return a `Multiply` by tiles of rows that chose the same expert, filled up with others.

    Args:
        sizes: rows of a tile, ascending; taken is the first that holds as many as choose an expert
            on the average.
        counted: ask how many tiles are full, and wait for the answer; else there are as many as
            there could be.
    """

    def tiles(experts: Experts, x: mx.array, chosen: mx.array) -> mx.array:
        (R, k), E = chosen.shape, experts.out.weight.shape[0]
        size = next((size for size in sizes if size * E >= R * k), sizes[-1])
        order = mx.argsort(chosen.flatten())
        of_expert = mx.zeros(E, mx.int32).at[chosen.flatten()].add(1)
        tiles_of_expert = (of_expert + size - 1) // size
        ends: Any = mx.cumsum(tiles_of_expert)
        count = int(ends[-1].item()) if counted else -(-R * k // size) + E
        # Where a row of `order` goes: its expert's tiles begin later than its expert's rows.
        later = (ends - tiles_of_expert) * size - (mx.cumsum(of_expert) - of_expert)
        place = later[chosen.flatten()[order]] + mx.arange(R * k)
        source = mx.zeros(count * size, mx.int32)
        source[place] = order // k
        expert = (mx.arange(count)[:, None] >= ends).sum(axis=-1)
        expert = mx.minimum(expert, E - 1).astype(mx.uint32)
        rows = x[source].reshape(count, size, -1)
        hidden = [layer(rows, expert, sorted_indices=True) for layer in experts.into]
        outputs: mx.array = experts.out(experts.activate(*hidden), expert, sorted_indices=True)
        back = mx.zeros(R * k, mx.int32)
        back[order] = place
        return outputs.reshape(count * size, -1)[back].reshape(R, k, -1)

    return tiles


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

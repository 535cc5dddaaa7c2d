"""The matrices of linear layers as a CPU multiplies them fastest: row after row, or column after
column, whatever the architecture.

Rows of 1,024 float32 numbers are a page long. What OpenBLAS packs of some of them at once falls
into the same places of a cache, which takes a quarter longer than to pack columns; rows of 576 or
640 have no such trouble, and columns may have it. So both are tried for each size of a matrix.
"""

from __future__ import annotations

import time
from collections import defaultdict

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from vllm_mlx import platform

_ROWS = 16
"""Of a trial: decode steps are between one row and twice as many."""
_REPEATS = 3
_BLOCK = 256
"""Rows that are moved at once: what is read and what is written of them fit into a cache."""
_LEAST = 2**18
"""Numbers of a matrix that it is tried for: smaller ones fit into a cache either way."""


def lay_out(model: nn.Module) -> None:
    """Keep each matrix of a model in the order that was faster; its shape stays `[N, D]`."""
    if not platform.chooses_layouts():
        return
    by_shape: dict[tuple[int, ...], list[nn.Module]] = defaultdict(list)
    for module in _multiplied(model):
        weight: mx.array = module.weight
        if weight.dtype == mx.float32 and weight.size >= _LEAST:
            by_shape[weight.shape].append(module)
    for modules in by_shape.values():
        first = modules[0].weight
        turned = _by_columns(first)
        if _seconds(turned) < _seconds(first):
            modules[0].weight = turned
            for module in modules[1:]:
                module.weight = _by_columns(module.weight)


def _multiplied(model: nn.Module) -> list[nn.Module]:
    """Linear layers, and the embedding where it is the head, too: no layer has its shape."""
    modules = [module for _, module in model.named_modules()]
    linear = [module for module in modules if type(module) is nn.Linear]
    shapes = {module.weight.shape for module in linear}
    tied = [
        module
        for module in modules
        if type(module) is nn.Embedding and module.weight.shape not in shapes
    ]
    return [*linear, *tied]


def _by_columns(weight: mx.array) -> mx.array:
    """Return a matrix `[N, D]` whose columns follow each other in memory."""
    rows = np.asarray(weight)
    columns = np.empty(rows.shape[::-1], rows.dtype)
    for first in range(0, len(rows), _BLOCK):
        columns[:, first : first + _BLOCK] = rows[first : first + _BLOCK].T
    turned = mx.array(columns).T
    mx.eval(turned)
    return turned


def _seconds(weight: mx.array) -> float:
    """Seconds that a product of some rows takes at best."""
    x = mx.ones((_ROWS, weight.shape[1]))
    taken = []
    for _ in range(_REPEATS):
        mx.eval(x)
        start = time.perf_counter()
        mx.eval(x @ weight.T)
        taken.append(time.perf_counter() - start)
    return min(taken)

"""The matrices of linear layers as a CPU multiplies them fastest: row after row, or column after
column, whatever the architecture.

Rows of 1,024 float32 numbers are a page long. What OpenBLAS packs of some of them at once falls
into the same places of a cache, and takes a third longer than to pack columns. So both are tried
for each size of such a matrix; with rows of 576 or 640 numbers there is nothing to gain.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from vllm_mlx import platform
from vllm_mlx.models.following import products_of

_PAGE = 4096
_LEAST_BYTES = 2**22
"""Of a matrix that it is tried for: smaller ones stay in a cache either way."""
_LEAST_GAIN = 0.1
"""What by columns must save of the time by rows: two trials differ by half of this."""
_ROWS = 16
"""Of a trial: decode steps are between one row and twice as many."""
_REPEATS = 3
_BLOCK = 256
"""Rows that are moved at once: what is read and what is written of them fit into a cache."""


def lay_out(model: nn.Module, call: Callable[[mx.array], Any]) -> None:
    """Keep each matrix that a model multiplies with in the faster order; its shape stays `[N, D]`.

    While one is moved, it is in memory twice.

    Args:
        call: the model with tokens `[B, L]`; what it returns is not computed.
    """
    if not platform.chooses_layouts():
        return
    candidates = [
        module
        for module in model.modules()
        if type(module) in (nn.Linear, nn.Embedding) and _may_gain(module.weight)
    ]
    if not candidates:
        return
    by_shape: dict[tuple[int, ...], list[nn.Module]] = defaultdict(list)
    for module in {id(module): module for module, _ in products_of(candidates, call)}.values():
        by_shape[module.weight.shape].append(module)
    for modules in by_shape.values():
        first: mx.array = modules[0].weight
        turned = _by_columns(first)
        if _seconds(turned) < (1 - _LEAST_GAIN) * _seconds(first):
            modules[0].weight = turned
            del first, turned
            for module in modules[1:]:
                module.weight = _by_columns(module.weight)


def _may_gain(weight: mx.array) -> bool:
    if weight.dtype != mx.float32 or weight.nbytes < _LEAST_BYTES:
        return False
    return weight.shape[1] * weight.itemsize % _PAGE == 0


def _by_columns(weight: mx.array) -> mx.array:
    """Return a matrix `[N, D]` whose columns follow each other in memory."""
    columns = mx.zeros(weight.shape[::-1])
    mx.eval(columns)
    source, target = np.array(weight, copy=False), np.array(columns, copy=False)  # both are views
    for first in range(0, len(source), _BLOCK):
        target[:, first : first + _BLOCK] = source[first : first + _BLOCK].T
    turned = columns.T
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

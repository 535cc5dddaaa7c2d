"""Short convolutions of each channel alone, as recurrent layers have them before their state."""

from __future__ import annotations

from functools import reduce
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vllm_mlx import platform

_MOST_TOKENS = 8


class ShortConvolution(nn.Conv1d):
    """A convolution over the last K tokens as a sum of K products.

    MLX has no convolution by channels that a CPU is fast in: 256 tokens of 6,144 channels take
    42 ms, and 6 so. On CUDA cuDNN plans some 100 ms for every new number of rows and tokens.
    """

    def __call__(self, x: mx.array) -> mx.array:
        weights = mx.contiguous(self.weight.squeeze(-1).T)  # [K, C]
        K = weights.shape[0]
        L = x.shape[1] - K + 1
        tokens = [x[:, token : token + L] for token in range(K)]
        y: mx.array = self._sum_of_products(tokens, list(weights))
        return y + self.bias if "bias" in self else y


def _sum_of_products(tokens: list[mx.array], weights: list[mx.array]) -> mx.array:
    products = (x.astype(mx.float32) * w for x, w in zip(tokens, weights, strict=True))
    return reduce(mx.add, products).astype(tokens[0].dtype)


def accelerate_convolutions(model: nn.Module) -> None:
    """Have all short convolutions of a model computed in a form that CPUs and CUDA are fast in."""
    if (backend := platform.backend()) == "metal":
        return
    # One kernel on CUDA; a CPU may lack the compiler that this takes.
    compute = _sum_of_products if backend == "cpu" else mx.compile(_sum_of_products, shapeless=True)
    for module in model.modules():
        if type(module) is nn.Conv1d and _is_short(module):
            layer: Any = module
            layer.__class__ = ShortConvolution
            layer._sum_of_products = compute


def _is_short(layer: Any) -> bool:
    C, K, per_group = layer.weight.shape
    plain = (layer.stride, layer.padding, layer.dilation) == (1, 0, 1)
    return plain and per_group == 1 and layer.groups == C and K <= _MOST_TOKENS

"""Short convolutions of each channel alone, as recurrent layers have them before their state."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vllm_mlx import platform

_MOST_TOKENS = 8


class ShortConvolution(nn.Conv1d):
    """A convolution over the last K tokens as a sum of K products.

    MLX has no convolution by channels that a CPU is fast in: 256 tokens of 6,144 channels take
    42 ms, and 6 so.
    """

    def __call__(self, x: mx.array) -> mx.array:
        weights = mx.contiguous(self.weight.squeeze(-1).T)  # [K, C]
        K = weights.shape[0]
        L = x.shape[1] - K + 1
        y = x[:, :L] * weights[0]
        for token in range(1, K):
            y = y + x[:, token : token + L] * weights[token]
        return y + self.bias if "bias" in self else y


def accelerate_convolutions(model: nn.Module) -> None:
    """Have all short convolutions of a model computed in the form that a CPU is fast in."""
    if platform.backend() != "cpu":
        return
    for module in model.modules():
        if type(module) is nn.Conv1d and _is_short(module):
            layer: Any = module
            layer.__class__ = ShortConvolution


def _is_short(layer: Any) -> bool:
    C, K, per_group = layer.weight.shape
    plain = (layer.stride, layer.padding, layer.dilation) == (1, 0, 1)
    return plain and per_group == 1 and layer.groups == C and K <= _MOST_TOKENS

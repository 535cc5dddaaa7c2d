"""`place`: a model's weights, from where a loader left them to how this backend is fast."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import dequantize_model

from vllm_mlx import platform


def place(model: nn.Module) -> nn.Module:
    """Bring the weights into memory in the type this backend is fast in; returns the model."""
    if dtype := platform.weight_dtype():
        model.set_dtype(dtype)  # first: scales in float16 would round the weights they make
    arrays: Any = tree_flatten(model.parameters())
    if platform.dequantizes(sum(array.nbytes for _, array in arrays)):
        dequantize_model(model)
    model.eval()
    mx.eval(model.parameters())
    return model

"""Norms that add one to their weight hold the sum, and others stay."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import gemma3_text, qwen3_next

from vllm_mlx.models.norms import fold_norms


class Model(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_gemmas_are_folded_bit_for_bit(dtype):
    norm = gemma3_text.RMSNorm(24)
    norm.weight = mx.random.normal((24,), dtype)
    x = mx.random.normal((3, 5, 24), dtype)
    expected, weight = norm(x), norm.weight
    model = Model(norm)
    fold_norms(model)
    assert type(model.norm) is nn.RMSNorm
    assert mx.array_equal(model.norm(x), expected)
    assert mx.array_equal(model.norm.weight, 1.0 + weight)
    fold_norms(model)
    assert mx.array_equal(model.norm(x), expected), "once is enough"


@pytest.mark.parametrize("make", [nn.RMSNorm, qwen3_next.Qwen3NextRMSNormGated])
def test_others_stay(make):
    norm = make(24)
    norm.weight = weight = mx.random.normal((24,))
    fold_norms(Model(norm))
    assert type(norm) is make
    assert norm.weight is weight

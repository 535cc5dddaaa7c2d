"""Short convolutions compute what MLX's do."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

from vllm_mlx import platform
from vllm_mlx.models.convolutions import ShortConvolution, accelerate_convolutions

C = 12


class Model(nn.Module):
    def __init__(self, **changes):
        super().__init__()
        form = {"kernel_size": 4, "groups": C, "bias": False, **changes}
        self.conv1d = nn.Conv1d(C, C, **form)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("K", [1, 3, 4])
@pytest.mark.parametrize("tokens", [1, 2, 30])
def test_as_theirs(bias, K, tokens):
    model = Model(kernel_size=K, bias=bias)
    x = mx.random.normal((3, tokens + K - 1, C))
    expected = model.conv1d(x)
    accelerate_convolutions(model)
    assert type(model.conv1d) is ShortConvolution
    assert model.conv1d(x).shape == expected.shape
    assert mx.allclose(model.conv1d(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"groups": 1}, {"groups": 3}, {"padding": 3}, {"stride": 2}, {"kernel_size": 50}]
)
def test_others_are_theirs(changes):
    model = Model(**changes)
    accelerate_convolutions(model)
    assert type(model.conv1d) is nn.Conv1d


def test_metal_has_theirs(monkeypatch):
    monkeypatch.setattr(platform, "backend", lambda: "metal")
    model = Model()
    accelerate_convolutions(model)
    assert type(model.conv1d) is nn.Conv1d

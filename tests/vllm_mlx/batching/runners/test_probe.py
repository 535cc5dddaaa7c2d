"""What rounding does to answers is told from what a wrong runner does."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models.switch_layers import SwitchLinear

from tests.helpers.decoding import VOCAB, tiny_llama
from vllm_mlx import platform
from vllm_mlx.batching.runners.make_runner import make_runner
from vllm_mlx.batching.runners.one_by_one import OneByOneRunner
from vllm_mlx.batching.slots.runner import SlotRunner


class Rounded(nn.Module):
    """A llama whose logits depend on how much is computed at once."""

    def __init__(self, by: float, *, has_experts: bool) -> None:
        super().__init__()
        self.model = tiny_llama()
        self.layers = self.model.layers
        if has_experts:
            self.experts = SwitchLinear(4, 4, 2)
        self._by = by

    def __call__(self, tokens: mx.array, cache=None) -> mx.array:
        shift = self._by * mx.sin(mx.arange(VOCAB)) * (tokens.size % 5)
        return self.model(tokens, cache=cache) + shift


@pytest.mark.parametrize(
    ("by", "has_experts", "kind"),
    [(0.8, True, SlotRunner), (0.8, False, OneByOneRunner), (2, True, OneByOneRunner)],
)
def test_only_what_chooses_experts_may_round_far(by, has_experts, kind, monkeypatch):
    on_cuda = {False: (64, 1.0), True: (64, 2.5)}
    monkeypatch.setattr(platform, "trial", on_cuda.get)
    assert type(make_runner(Rounded(by, has_experts=has_experts), vocab_size=VOCAB)) is kind


def test_a_backend_of_16_bits_grants_experts_more(monkeypatch):
    monkeypatch.setattr(platform, "backend", lambda: "cuda")
    assert platform.trial(chooses_experts=True)[1] > platform.trial()[1]
    monkeypatch.setattr(platform, "backend", lambda: "cpu")
    assert platform.trial(chooses_experts=True) == platform.trial()

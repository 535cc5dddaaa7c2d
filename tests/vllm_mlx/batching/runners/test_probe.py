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
from vllm_mlx.scheduler_config import SchedulerConfig


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
    [(0.8, True, SlotRunner), (1.2, False, OneByOneRunner), (3, True, OneByOneRunner)],
)
def test_only_what_chooses_experts_may_round_far(by, has_experts, kind, monkeypatch):
    on_cuda = {False: (64, 1.0), True: (64, 2.5)}
    monkeypatch.setattr(platform, "trial", on_cuda.get)
    assert type(make_runner(Rounded(by, has_experts=has_experts), vocab_size=VOCAB)) is kind


class ToldFirst(nn.Module):
    """A llama that reads the first token of all otherwise, if a cache says that it is."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_llama()
        self.layers = self.model.layers

    def __call__(self, tokens: mx.array, cache=None) -> mx.array:
        is_first = isinstance(cache[0].offset, int) and cache[0].offset == 0
        changed = mx.concatenate([tokens[:, :1] + 1, tokens[:, 1:]], axis=1)
        return self.model(changed if is_first else tokens, cache=cache)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_prompt_of_one_token_is_tried(width):
    config = SchedulerConfig(max_num_seqs=width)
    runner = make_runner(ToldFirst(), vocab_size=VOCAB, config=config)
    assert type(runner) is OneByOneRunner
    assert type(make_runner(tiny_llama(), vocab_size=VOCAB, config=config)) is SlotRunner


def test_a_backend_of_16_bits_grants_experts_more(monkeypatch):
    monkeypatch.setattr(platform, "backend", lambda: "cuda")
    assert platform.trial(chooses_experts=True)[1] > platform.trial()[1]
    monkeypatch.setattr(platform, "backend", lambda: "cpu")
    assert platform.trial(chooses_experts=True) == platform.trial()

"""What rounding does to answers is told from what a wrong runner does."""

from __future__ import annotations

import mlx.core as mx
import pytest

from tests.helpers.decoding import VOCAB, tiny_llama
from vllm_mlx.batching.make_runner import make_runner
from vllm_mlx.batching.one_by_one import OneByOneRunner
from vllm_mlx.batching.slots.runner import SlotRunner


class Rounded:
    """A llama whose first logits depend on how much is computed at once, as rounding makes those
    of experts do."""

    def __init__(self, dtype: mx.Dtype, by: float) -> None:
        self._model = tiny_llama()
        self.layers = self._model.layers
        self._dtype, self._by = dtype, by

    def __call__(self, tokens, cache=None):
        logits = self._model(tokens, cache=cache)
        first = mx.arange(VOCAB) % 2 == 0
        return (logits + self._by * first * (tokens.size % 5 / 4)).astype(self._dtype)


class Misplaced(Rounded):
    """Another one, wrong wherever it answers more than one row."""

    def __call__(self, tokens, cache=None):
        logits = super().__call__(tokens, cache)
        return mx.roll(logits, 5, axis=-1) if len(tokens) > 1 else logits


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (Rounded(mx.bfloat16, 0.5), SlotRunner),
        (Rounded(mx.float32, 0.5), OneByOneRunner),  # exact, so something is wrong with it
        (Rounded(mx.bfloat16, 9.0), OneByOneRunner),  # nothing can be told of this one
        (Misplaced(mx.bfloat16, 0.1), OneByOneRunner),
    ],
    ids=["noise", "noise in float32", "nothing but noise", "wrong"],
)
def test_what_rounds_runs_in_slots_and_what_is_wrong_does_not(model, kind):
    assert type(make_runner(model, vocab_size=VOCAB)) is kind

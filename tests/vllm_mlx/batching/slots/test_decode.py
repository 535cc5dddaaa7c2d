"""Steps that are followed once and replayed give what the model gives to each row alone.

On a CPU, with attention as Metal has it; MLX's own compiler is the same everywhere.
"""

from __future__ import annotations

import gc
import weakref

import mlx.core as mx
import mlx.nn as nn
import pytest

from tests.helpers.architectures import ARCHITECTURES, VOCAB
from tests.helpers.decoding import new_scheduler, run, sequence, sequential, tiny_llama
from tests.helpers.exactness import play, ties, undo_dispatch, uneven_rows
from tests.helpers.metal import choose_as_metal
from tests.helpers.text_folders import new_model
from vllm_mlx.batching.slots.decode import _Followed
from vllm_mlx.models.accelerated import accelerate

FEW = ["gemma3_text", "qwen3_5"]
"""Of windows and of states one; MLX runs a compiler for each operation that it makes of several."""
UNLIKE = [
    *("llama", "gemma3n", "gemma4_text", "gpt_oss", "deepseek_v3", "mamba", "mamba2", "rwkv7"),
    *("lfm2", "recurrent_gemma", "baichuan_m1", "falcon_h1", "nemotron_h", "kimi_linear"),
]
ROWS = uneven_rows(VOCAB)
PROMPTS = [[3 + (row * 5 + at) % 60 for at in range(4 + row)] for row in range(6)]


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    choose_as_metal(monkeypatch)


@pytest.fixture
def followed(monkeypatch):
    sizes, step = [], _Followed.step

    def note(self, *arrays):
        sizes.append((self.rings.slots, self.rings.columns))
        return step(self, *arrays)

    monkeypatch.setattr(_Followed, "step", note)
    return sizes


def test_every_architecture_named_is_one():
    assert set(FEW) | set(UNLIKE) <= set(ARCHITECTURES)


@pytest.mark.parametrize(
    "name", [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in UNLIKE)]
)
def test_replayed_steps_equal_sequential(name, followed):
    model = new_model(name)
    undo_dispatch()
    alone = [sequential(model, row.prompt, row.limit) for row in ROWS]
    accelerate(model)
    scheduler = new_scheduler(model, vocab_size=VOCAB, max_num_seqs=7, max_num_batched_tokens=80)
    assert not ties(model, ROWS, play(scheduler, ROWS), alone)
    assert scheduler._runner._decode._replay is not None
    assert followed


def test_a_size_is_followed_once(followed):
    model = accelerate(tiny_llama())
    scheduler = new_scheduler(model, max_num_seqs=3)
    followed.clear()  # those of the trial
    rows = [sequence(str(at), prompt, 30) for at, prompt in enumerate(PROMPTS)]
    assert run(scheduler, rows) == [sequential(model, prompt, 30) for prompt in PROMPTS]
    assert len(followed) == 2 + len(set(followed))  # the first was tried with two numbers
    assert scheduler.stats.steps > 10 * len(followed)


class Keeps(nn.Module):
    """A model that goes on from an array which its last step has left."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.last = inner, None

    @property
    def layers(self):
        return self.inner.layers

    def __call__(self, tokens, cache=None):
        self.last = logits = self.inner(tokens, cache=cache)
        return logits


class Waits(Keeps):
    """A model that waits for a number."""

    def __call__(self, tokens, cache=None):
        logits = self.inner(tokens, cache=cache)
        return logits if logits.max().item() > -1e9 else -logits


class Counts(Keeps):
    """A model that asks for what only the host knows."""

    def __call__(self, tokens, cache=None):
        if tokens.shape[1] == 1 and hasattr(cache[0], "ring"):
            assert cache[0].ring.column >= 0
        return self.inner(tokens, cache=cache)


class Measures(Keeps):
    """A model to which it matters how many tokens there are."""

    def __call__(self, tokens, cache=None):
        logits = self.inner(tokens, cache=cache)
        if tokens.shape[1] > 1 or not hasattr(cache[0], "ring"):
            return logits
        return logits + 1e-3 * cache[0]._offset


class Asks(Keeps):
    """A model that asks for the number of tokens and has no use for it."""

    def __call__(self, tokens, cache=None):
        if tokens.shape[1] == 1 and hasattr(cache[0], "ring"):
            assert cache[0]._offset > 0
        return self.inner(tokens, cache=cache)


@pytest.mark.parametrize("kind", [Keeps, Waits, Counts, Measures])
def test_a_model_that_cannot_be_replayed_is_called_each_time(kind, caplog):
    caplog.set_level("INFO")
    inner = accelerate(tiny_llama())
    scheduler = new_scheduler(kind(inner), max_num_seqs=3)
    rows = [sequence(str(at), prompt, 30) for at, prompt in enumerate(PROMPTS)]
    assert run(scheduler, rows) == [sequential(inner, prompt, 30) for prompt in PROMPTS]
    assert "decode steps are not compiled" in caplog.text
    kept = scheduler._runner._model.last
    assert kept is None or not mx.isnan(kept).any().item()  # it can be computed


def test_a_number_that_does_not_matter_may_be_asked_for():
    inner = accelerate(tiny_llama())
    scheduler = new_scheduler(Asks(inner), max_num_seqs=3)
    rows = [sequence(str(at), prompt, 30) for at, prompt in enumerate(PROMPTS)]
    assert run(scheduler, rows) == [sequential(inner, prompt, 30) for prompt in PROMPTS]
    assert scheduler._runner._decode._replay is not None


def test_nothing_holds_the_weights_of_a_runner_that_is_closed():
    model = accelerate(tiny_llama())
    scheduler = new_scheduler(model, max_num_seqs=3)
    run(scheduler, [sequence("a", PROMPTS[0], 10)])
    assert scheduler._runner._decode._replay is not None
    step = weakref.ref(scheduler._runner._decode)
    followed = weakref.ref(scheduler._runner._decode._followed)
    gc.disable()
    try:
        scheduler._runner.close()
        assert step() is None
        assert followed() is None
    finally:
        gc.enable()

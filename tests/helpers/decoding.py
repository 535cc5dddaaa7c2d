"""What the tests of the packing core share: tiny models, sequences without text, references."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.generate import generate_step
from mlx_lm.models import llama

from vllm_mlx.batching.request import Request
from vllm_mlx.batching.runners.make_runner import make_runner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig

VOCAB = 61
CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
}
CONTEXT_LENGTH = 110_000
ENDLESS = {"max_tokens": 100_000, "temperature": 0}
"""An answer that takes minutes on any machine; models written as endless end none by themselves."""
BYTES_PER_TOKEN = 2 * 2 * 8 * 2 * 4  # layers, heads, head dimension, keys and values, float32


def randomize(model: Any, scale: float = 0.3, seed: int = 0) -> Any:
    """Weights large enough that the next token depends on all before it."""
    key = mx.random.key(seed)
    filled = []
    for name, array in tree_flatten(model.parameters()):
        key, own = mx.random.split(key)
        noise = mx.random.normal(array.shape, key=own) * scale
        filled.append((name, noise + 1 if array.ndim == 1 and "bias" not in name else noise))
    model.update(tree_unflatten(filled))
    model.eval()
    mx.eval(model.parameters())
    return model


def tiny_llama(*, scale: float = 0.3, **changes: Any) -> Any:
    return randomize(llama.Model(llama.ModelArgs.from_dict({**CONFIG, **changes})), scale)


class Poisoned:
    """A model whose logits, keys and values are NaN once token 7 is read."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.layers = model.layers

    def __call__(self, tokens: mx.array, cache: Any = None) -> Any:
        poison = (tokens == 7).any(axis=-1)
        hidden = self._model.model.embed_tokens(tokens)
        hidden = mx.where(poison[:, None, None], mx.nan, hidden)
        hidden = self._model.model(tokens, cache=cache, input_embeddings=hidden)
        return self._model.model.embed_tokens.as_linear(hidden)


class NullDetokenizer:
    def add(self, token: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def sequence(name: str, prompt: Seq[int], max_tokens: int, **params: Any) -> Sequence:
    params.setdefault("temperature", 0.0)
    request = Request("", SamplingParams.of(max_tokens=max_tokens, **params), name)
    return Sequence(
        request,
        list(prompt),
        max_tokens=max_tokens,
        model="tiny",
        new_detokenizer=NullDetokenizer,
    )


def new_scheduler(model: Any, *, vocab_size: int = VOCAB, **bounds: int) -> Scheduler:
    runner = make_runner(model, vocab_size=vocab_size, config=SchedulerConfig(**bounds))
    return Scheduler(runner, set())


def step(scheduler: Scheduler) -> list[Sequence]:
    sequences = scheduler.step()
    for each in sequences:
        each.deliver()
    return sequences


def run(scheduler: Scheduler, sequences: Seq[Sequence]) -> list[list[int]]:
    """Generate all of them; returns their tokens."""
    for each in sequences:
        scheduler.add(each)
    while scheduler.has_unfinished:
        step(scheduler)
    for each in sequences:
        each.future.result(0)
    return [each.output_tokens for each in sequences]


def sequential(model: Any, prompt: Seq[int], max_tokens: int) -> list[int]:
    """What mlx-lm generates of one prompt alone, greedily."""
    steps = generate_step(mx.array(list(prompt)), model, max_tokens=max_tokens)
    return [int(token) for token, _ in steps]


def logit_gap(model: Any, tokens: Seq[int], one: int, other: int) -> float:
    """How far apart the logits of two next tokens are."""
    logits = model(mx.array([list(tokens)]))[0, -1]
    return abs(float(logits[one] - logits[other]))

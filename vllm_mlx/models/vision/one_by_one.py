"""`OneByOneModel`: any architecture of mlx-vlm, one sequence at a time.

It is stepped by `generate_step`, which knows cross-attention, image masks and all else that
architectures differ in. They keep what they know of a prompt in the model itself (`_rope_deltas`),
so that a second sequence beside the first would change it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx
from mlx_vlm.generate.ar import generate_step
from mlx_vlm.generate.common import DEFAULT_PREFILL_STEP_SIZE, generation_stream
from mlx_vlm.models.cache import make_prompt_cache

from vllm_mlx.batching.logits import LogitsProcessor
from vllm_mlx.batching.logits.masks import take_last
from vllm_mlx.batching.logits.penalty import make_processors
from vllm_mlx.batching.runners.cache_budget import in_place_budget
from vllm_mlx.batching.runners.one_by_one import OneByOneRunner, Steps
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.scheduler_config import Bounds


class OneByOneModel:
    """mlx-vlm's model, which is not called but stepped by a runner of its own.

    Args:
        model: as mlx-vlm loads it.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def new_runner(self, *, vocab_size: int, bounds: Bounds) -> OneByOneRunner:
        return OneByOneRunner(
            partial(_start, self._model),
            partial(make_prompt_cache, self._model.language_model),
            vocab_size=vocab_size,
            step_size=DEFAULT_PREFILL_STEP_SIZE,
            bounds=bounds,
            budget=in_place_budget(self._model.language_model, bounds, make_prompt_cache),
            stream=generation_stream,
        )


def _start(model: Any, sequence: Sequence, **options: Any) -> Steps:
    inputs = _inputs(sequence)
    processors = make_processors(sequence) + take_last(sequence)
    steps: Any = generate_step(
        inputs.pop("input_ids"),
        model,
        inputs.pop("pixel_values", None),
        inputs.pop("attention_mask", None),
        logits_processors=[_with_prompt(each, sequence.prompt_tokens) for each in processors],
        **inputs,
        **options,
    )
    yield from steps


def _inputs(sequence: Sequence) -> dict[str, Any]:
    if sequence.media and sequence.media.inputs:
        return dict(sequence.media.inputs())
    tokens = mx.array([sequence.prompt_tokens])
    return {"input_ids": tokens, "attention_mask": mx.ones_like(tokens)}


def _with_prompt(processor: LogitsProcessor, prompt: list[int]) -> LogitsProcessor:
    """`processor` shown the whole prompt and answer. `generate_step` shows all of the prompt or
    only its end, by how it was computed; the answer is the last tokens in either case."""
    given = mx.array(prompt)
    answered = 0

    def process(tokens: mx.array, logits: mx.array) -> mx.array:
        nonlocal answered
        answer = tokens[tokens.size - answered :]
        answered += 1
        return processor(mx.concatenate([given, answer.astype(given.dtype)]), logits)

    return process

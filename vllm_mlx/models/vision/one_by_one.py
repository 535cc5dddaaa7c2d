"""`OneByOneRunner`: any architecture of mlx-vlm, one sequence at a time.

It steps `generate_step`, which knows cross-attention, image masks and all else that architectures
differ in. They keep what they know of a prompt in the model itself (`_rope_deltas`), so that a
second sequence beside the first would change it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_vlm.generate.ar import generate_step
from mlx_vlm.generate.common import DEFAULT_PREFILL_STEP_SIZE
from mlx_vlm.models.cache import make_prompt_cache

from vllm_mlx.batching.fallback_sampler import LogitsProcessor, make_processors, make_sampler
from vllm_mlx.batching.logprobs import Logprobs
from vllm_mlx.batching.runner import Produced, Runner
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
        return OneByOneRunner(self._model, vocab_size=vocab_size, bounds=bounds)


class _Running(NamedTuple):
    sequence: Sequence
    steps: Generator[tuple[int, mx.array]]
    cache: list[Any]


class OneByOneRunner(Runner):
    """`Runner` of one sequence; the others wait. It does not know `kv_cache_bytes`.

    Attributes:
        bounds: what was asked for, but `max_num_seqs` is 1.
    """

    def __init__(self, model: Any, *, vocab_size: int, bounds: Bounds) -> None:
        super().__init__(replace(bounds, max_num_seqs=1))
        self._model = model
        self._vocab_size = vocab_size
        self._prefill_step_size = min(DEFAULT_PREFILL_STEP_SIZE, bounds.max_num_batched_tokens)
        self._running: _Running | None = None

    def insert(self, sequences: list[Sequence]) -> None:
        (sequence,) = sequences
        cache = make_prompt_cache(self._model.language_model)
        self._running = _Running(sequence, self._steps(sequence, cache), cache)

    def remove(self, sequence: Sequence) -> None:
        if self._running and self._running.sequence is sequence:
            self.close()

    def step(self) -> list[Produced]:
        if self._running is None:
            return []
        sequence, steps, _ = self._running
        is_first = not sequence.output_tokens
        with self.counters.timed("prefill" if is_first else "decode"):
            token, logprobs = next(steps)
            produced = _produced(sequence, token, logprobs)
        self.counters.steps += 1
        if is_first:
            self.counters.prompt_tokens += len(sequence.prompt_tokens)
        return [produced]

    def close(self) -> None:
        if self._running:
            self._running.steps.close()
        self._running = None

    @property
    def slots(self) -> int:
        return int(self._running is not None)

    @property
    def kv_cache_bytes(self) -> int:
        running = self._running
        return sum(cache.nbytes for cache in running.cache) if running else 0

    def _steps(self, sequence: Sequence, cache: list[Any]) -> Generator[tuple[int, mx.array]]:
        """Tokens with the log-probabilities they were sampled from; starts with the first
        `next()`, so that the prefill is counted as such."""
        inputs = _inputs(sequence)
        steps: Any = generate_step(
            inputs.pop("input_ids"),
            self._model,
            inputs.pop("pixel_values", None),
            inputs.pop("attention_mask", None),
            prompt_cache=cache,
            max_tokens=sequence.max_tokens,
            sampler=make_sampler(sequence.params, sequence.seed, self._vocab_size),
            logits_processors=list(_processors(sequence)),
            prefill_step_size=self._prefill_step_size,
            **inputs,
        )
        yield from steps


def _inputs(sequence: Sequence) -> dict[str, Any]:
    if sequence.media and sequence.media.inputs:
        return dict(sequence.media.inputs())
    tokens = mx.array([sequence.prompt_tokens])
    return {"input_ids": tokens, "attention_mask": mx.ones_like(tokens)}


def _processors(sequence: Sequence) -> Iterator[LogitsProcessor]:
    return (
        _with_prompt(processor, sequence.prompt_tokens)
        for processor in make_processors(sequence.params)
    )


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


def _produced(sequence: Sequence, token: int, logprobs: mx.array) -> Produced:
    if not mx.isfinite(logprobs[token]).item():
        return Produced(sequence, -1)
    count = sequence.params.logprobs
    return Produced(sequence, token, None if count is None else Logprobs.of(logprobs, token, count))

"""`OneByOneRunner`: one sequence at a time, for models that give other answers in a batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step, generation_stream
from mlx_lm.models.cache import make_prompt_cache

from vllm_mlx import platform
from vllm_mlx.batching.logits.masks import make_mask, masked, take_last
from vllm_mlx.batching.logits.penalty import Shaping, make_processors, shaped
from vllm_mlx.batching.logits.prompt_scores import PromptScores, score_prompt
from vllm_mlx.batching.logits.thought_budgets import ThoughtBudgets
from vllm_mlx.batching.runners.cache_budget import in_place_budget
from vllm_mlx.batching.runners.runner import Produced, Runner, prompt_read
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.budget import KVBudget
from vllm_mlx.batching.slots.draws import Sampling, make_choose
from vllm_mlx.scheduler_config import Bounds

Steps = Generator[tuple[int, mx.array]]
"""The tokens of a sequence, each with the log-probabilities `[V]` that it was sampled from."""


class OneByOneRunner(Runner):
    """`Runner` of one sequence; the others wait.

    Args:
        start: makes the steps of a sequence: `start(sequence, **options)` with options of a
            `generate_step`. Nothing is computed before the first step is taken.
        new_cache: makes the caches of a sequence, one a layer.
        step_size: most tokens of a prompt that are computed at once.
        budget: what a sequence may take.
        stream: what the steps are computed on.
        score: computes the scores of a prompt; without it there are none.

    Attributes:
        bounds: what was asked for, but `max_num_seqs` is 1.
    """

    def __init__(
        self,
        start: Callable[..., Steps],
        new_cache: Callable[[], list[Any]],
        *,
        vocab_size: int,
        step_size: int,
        bounds: Bounds,
        budget: KVBudget | None,
        stream: Any,
        score: Callable[[list[int], PromptScores, int], None] | None = None,
    ) -> None:
        super().__init__(replace(bounds, max_num_seqs=1), budget)
        self.streams = (stream,)
        self._stream = stream
        self._score = score
        self.scores_prompts = score is not None
        self._start = start
        self._new_cache = new_cache
        self._vocab_size = vocab_size
        self._step_size = step_size
        self._shapes = platform.prefill_shapes()
        self._running: tuple[Sequence, Steps] | None = None
        self._cache: list[Any] = []

    def insert(self, sequences: list[Sequence]) -> None:
        (sequence,) = sequences
        rows = {}
        if sequence.seed is not None:
            rows[0] = Sampling(sequence.params, random.Random(sequence.seed))
        choose = masked(make_choose(rows, self._vocab_size), make_mask({0: sequence}))
        choose = ThoughtBudgets().bounded(choose, {0: sequence})
        self._cache = self._new_cache()
        most = min(self._step_size, self.bounds.max_num_batched_tokens)
        steps = self._start(
            sequence,
            max_tokens=sequence.max_tokens,
            sampler=shaped(choose, {0: Shaping.of(sequence)}),
            prompt_cache=self._cache,
            prefill_step_size=self._shapes.most_tokens(most, 1, len(sequence.prompt_tokens)),
        )
        self._running = sequence, steps

    def remove(self, sequence: Sequence) -> None:
        if self._running and self._running[0] is sequence:
            self.close()

    def step(self) -> list[Produced]:
        if self._running is None:
            return []
        sequence, steps = self._running
        if not sequence.output_tokens and (told := self._read(sequence)):
            return told
        is_first = not sequence.output_tokens
        with self.counters.timed("prefill" if is_first else "decode"):
            token, logprobs = next(steps)
            chosen: Any = logprobs[token].item()
            platform.raise_failure(self._stream)
            produced = Produced.of(sequence, token, chosen, logprobs)
        self.counters.steps += 1
        if is_first:
            self.counters.prompt_tokens += len(sequence.prompt_tokens)
        return [produced]

    def _read(self, sequence: Sequence) -> list[Produced]:
        """Compute what is asked of a prompt's own tokens, and tell if this was all."""
        if (scores := sequence.scores) and not scores.found and self._score:
            most = min(self._step_size, self.bounds.max_num_batched_tokens)
            with self.counters.timed("prefill"):
                self._score(sequence.prompt_tokens, scores, most)
        if not sequence.max_tokens:
            self.counters.prompt_tokens += len(sequence.prompt_tokens)
        return prompt_read(sequence)

    def close(self) -> None:
        self._needs.clear()
        if self._running:
            self._running[1].close()
        self._running = None
        self._cache = []

    def rebound(self, bounds: Bounds) -> None:
        super().rebound(replace(bounds, max_num_seqs=1))

    @property
    def slots(self) -> int:
        return int(self._running is not None)

    @property
    def kv_cache_bytes(self) -> int:
        return sum(cache.nbytes for cache in self._cache)


def text_runner(model: Any, *, vocab_size: int, bounds: Bounds) -> OneByOneRunner:
    """Return the runner of a text model, stepped by mlx-lm's `generate_step`."""

    def start(sequence: Sequence, **options: Any) -> Any:
        processors = make_processors(sequence) + take_last(sequence)
        prompt = mx.array(sequence.prompt_tokens)
        return generate_step(prompt, model, logits_processors=processors, **options)

    return OneByOneRunner(
        start,
        partial(make_prompt_cache, model),
        vocab_size=vocab_size,
        step_size=platform.prefill_step_size(),
        bounds=bounds,
        budget=in_place_budget(model, bounds),
        stream=generation_stream,
        score=lambda tokens, scores, step: score_prompt(model, tokens, scores, vocab_size, step),
    )

"""`OneByOneRunner`: one sequence at a time, for models that give other answers in a batch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

from vllm_mlx import platform
from vllm_mlx.batching.fallback_sampler import make_processors, make_sampler
from vllm_mlx.batching.runner import Produced, Runner
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.scheduler_config import Bounds


class Steps(NamedTuple):
    """A sequence as it is computed.

    Attributes:
        tokens: each with the log-probabilities `[V]` it was sampled from.
        cache: what the model keeps of the sequence meanwhile, layer by layer.
    """

    tokens: Generator[tuple[int, mx.array]]
    cache: list[Any]


class OneByOneRunner(Runner):
    """`Runner` of one sequence; the others wait. It does not know `kv_cache_bytes`.

    Args:
        start: makes the steps of a sequence; nothing is computed before the first is taken.

    Attributes:
        bounds: what was asked for, but `max_num_seqs` is 1.
    """

    def __init__(self, start: Callable[[Sequence], Steps], bounds: Bounds) -> None:
        super().__init__(replace(bounds, max_num_seqs=1))
        self._start = start
        self._running: tuple[Sequence, Steps] | None = None

    def insert(self, sequences: list[Sequence]) -> None:
        (sequence,) = sequences
        self._running = sequence, self._start(sequence)

    def remove(self, sequence: Sequence) -> None:
        if self._running and self._running[0] is sequence:
            self.close()

    def step(self) -> list[Produced]:
        if self._running is None:
            return []
        sequence, steps = self._running
        is_first = not sequence.output_tokens
        with self.counters.timed("prefill" if is_first else "decode"):
            token, logprobs = next(steps.tokens)
            is_finite = bool(mx.isfinite(logprobs[token]).item())
            produced = Produced.of(sequence, token, logprobs, is_finite=is_finite)
        self.counters.steps += 1
        if is_first:
            self.counters.prompt_tokens += len(sequence.prompt_tokens)
        return [produced]

    def close(self) -> None:
        if self._running:
            self._running[1].tokens.close()
        self._running = None

    @property
    def slots(self) -> int:
        return int(self._running is not None)

    @property
    def kv_cache_bytes(self) -> int:
        running = self._running
        return sum(cache.nbytes for cache in running[1].cache) if running else 0


def text_runner(model: Any, *, vocab_size: int, bounds: Bounds) -> OneByOneRunner:
    """The runner of a text model, stepped by mlx-lm's `generate_step`."""
    step_size = min(platform.prefill_step_size(), bounds.max_num_batched_tokens)

    def start(sequence: Sequence) -> Steps:
        cache = make_prompt_cache(model)
        tokens: Any = generate_step(
            mx.array(sequence.prompt_tokens),
            model,
            max_tokens=sequence.max_tokens,
            sampler=make_sampler(sequence.params, sequence.seed, vocab_size),
            logits_processors=make_processors(sequence.params),
            prompt_cache=cache,
            prefill_step_size=step_size,
        )
        return Steps(tokens, cache)

    return OneByOneRunner(start, bounds)

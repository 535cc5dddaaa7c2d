"""Samplers of the fallback runners: one closure a row, which slots sample in one call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import mlx.core as mx
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    greedy_sampler,
    make_logits_processors,
)

from vllm_mlx.sampling_params import SamplingParams

Sampler = Callable[[mx.array], mx.array]
LogitsProcessor = Callable[[mx.array, mx.array], mx.array]


def make_sampler(params: SamplingParams, seed: int | None, vocab_size: int) -> Sampler:
    """Return a function from log-probabilities `[1, V]` to token ids `[1]`.

    Greedy rows all get the same function, so a batch of them is sampled in one call. A sampled row
    owns its key: what it draws depends on its seed and nothing else in the batch. Filters and
    their order are mlx-lm's: top-p, min-p, top-k, then the temperature.
    """
    if params.greedy or seed is None:
        return greedy_sampler
    filters = _filters(params, vocab_size)
    scale = 1.0 / params.temperature
    key = mx.random.key(seed)

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal key
        for keep_likely in filters:
            logprobs = keep_likely(logprobs)
        key, step_key = mx.random.split(key)
        return mx.random.categorical(logprobs * scale, key=step_key)

    return sample


def make_processors(params: SamplingParams) -> list[LogitsProcessor]:
    """Return what changes a row's logits before sampling: the repetition penalty."""
    if params.repetition_penalty == 1.0:
        return []
    return make_logits_processors(repetition_penalty=params.repetition_penalty)


def _filters(params: SamplingParams, vocab_size: int) -> list[Sampler]:
    filters: list[Sampler] = []
    if params.top_p < 1.0:
        filters.append(partial(apply_top_p, top_p=params.top_p))
    if params.min_p > 0.0:
        filters.append(partial(apply_min_p, min_p=params.min_p))
    if 0 < params.top_k < vocab_size:
        filters.append(partial(apply_top_k, top_k=params.top_k))
    return filters

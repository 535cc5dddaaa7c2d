"""`make_choose`: what chooses the next token of the rows of a batch, in one call a step.

A row that samples has a generator of its own and draws one number a token, so with a seed its text
depends on the row alone. Shapes: S rows of the batch, R of them sample, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx

from vllm_mlx import platform
from vllm_mlx.batching.logits import Choose
from vllm_mlx.batching.slots.filters import Filters, column, inverse_cdf
from vllm_mlx.sampling_params import SamplingParams


class Sampling(NamedTuple):
    """How a row samples: its filters and temperature, and where its numbers come from."""

    params: SamplingParams
    generator: random.Random


def make_choose(rows: Mapping[int, Sampling], vocab_size: int) -> Choose:
    """Return what chooses by `rows`, keyed by their places in the batch; all others are greedy."""
    filtered = {at: row for at, row in rows.items() if _is_filtered(row.params, vocab_size)}
    plain = {at: row for at, row in rows.items() if at not in filtered}
    kinds = ((filtered, _make_filtered), (plain, _make_unfiltered))
    draws = [
        (mx.array(list(rows)), make(list(rows.values()), vocab_size))
        for rows, make in kinds
        if rows
    ]

    def choose(logits: mx.array) -> mx.array:
        tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        for places, draw in draws:
            tokens[places] = draw(logits[places].astype(mx.float32))
        return tokens

    def choose_allowed(logits: mx.array) -> mx.array:
        tokens = choose(logits)
        # A scan of many float32 weights may give those of zero a width.
        chosen = mx.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
        likeliest = mx.argmax(logits, axis=-1).astype(mx.int32)
        return mx.where(chosen == -mx.inf, likeliest, tokens)

    constrained = any(row.params.structured_outputs for row in rows.values())
    return choose_allowed if constrained else choose


def _make_unfiltered(rows: list[Sampling], _: int) -> Choose:
    exp = platform.operations().exp
    scale = 1.0 / column([row.params.temperature for row in rows])
    uniforms = partial(_uniforms, rows)

    def draw(logits: mx.array) -> mx.array:
        scaled = logits * scale
        weights = exp(scaled - scaled.max(axis=-1, keepdims=True))
        return inverse_cdf(weights, uniforms())

    return draw


def _make_filtered(rows: list[Sampling], vocab_size: int) -> Choose:
    operations = platform.operations()
    exp, likeliest_first = operations.exp, partial(_sorted, operations.argsort)
    filters = Filters.of([row.params for row in rows], vocab_size, exp)
    few = platform.sampling_candidates() or vocab_size
    few = max(few, *(row.params.top_k for row in rows))
    sorts_all = few >= vocab_size // 2

    def draw(logits: mx.array) -> mx.array:
        highest = logits.max(axis=-1, keepdims=True)
        total = exp(logits - highest).sum(axis=-1, keepdims=True)
        logprobs = logits - highest - mx.log(total)
        uniforms = _uniforms(rows)
        if sorts_all:
            return filters.choose(*likeliest_first(logprobs), uniforms)
        tokens, likeliest = _likeliest(logprobs, few)
        chosen = filters.choose(tokens, likeliest, uniforms)
        covered: Any = filters.covered(likeliest).tolist()
        if flat := [row for row, is_covered in enumerate(covered) if not is_covered]:
            flat_rows = mx.array(flat)
            candidates = likeliest_first(logprobs[flat_rows])
            choose = filters.rows(flat_rows).choose
            chosen[flat_rows] = choose(*candidates, uniforms[flat_rows])
        return chosen

    return draw


def _uniforms(rows: list[Sampling]) -> mx.array:
    return column([row.generator.random() for row in rows])


def _is_filtered(params: SamplingParams, vocab_size: int) -> bool:
    return params.top_p < 1.0 or params.min_p > 0.0 or 0 < params.top_k < vocab_size


def _sorted(argsort: Choose, logprobs: mx.array) -> tuple[mx.array, mx.array]:
    """Return all tokens and their log-probabilities, likeliest first: `[R, V]` each."""
    tokens = argsort(-logprobs)
    return tokens, mx.take_along_axis(logprobs, tokens, axis=-1)


def _likeliest(logprobs: mx.array, few: int) -> tuple[mx.array, mx.array]:
    """Return the `few` likeliest tokens and log-probabilities, likeliest first: `[R, few]` each."""
    tokens = mx.argpartition(-logprobs, few, axis=-1)[:, :few]
    likeliest = mx.take_along_axis(logprobs, tokens, axis=-1)
    order = mx.argsort(-likeliest, axis=-1)
    tokens = mx.take_along_axis(tokens, order, axis=-1)
    return tokens, mx.take_along_axis(likeliest, order, axis=-1)

"""Rows that come, begin alike and leave; how they part from what a model answers to each alone;
and what becomes of the answers when a model sees or remembers less."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache, make_prompt_cache

from tests.helpers.decoding import logit_gap, sequence, step
from vllm_mlx.batching.scheduler import Scheduler

SHARED = 32
SHORT = {1: 1, 4: 1, 7: 1, 10: 2}
"""Tokens of prompts that share nothing, by their place in each dozen."""
TIE = 1e-4
"""Logits closer than this may be in either order: a batch adds up in another order."""


@dataclass(frozen=True)
class Row:
    """A prompt, most tokens of its answer, and the steps at which it comes and is aborted."""

    prompt: list[int]
    limit: int
    comes: int = 0
    leaves: int | None = None


def undo_dispatch() -> None:
    """Have mlx-lm's modules compute as they came, if a model was accelerated in this process."""
    theirs = [each for name, each in [*sys.modules.items()] if name.startswith("mlx_lm.models.")]
    for module in theirs:
        for name, value in [*vars(module).items()]:
            code = getattr(value, "__code__", None)
            if code and "vllm_mlx" in Path(code.co_filename).parts:
                setattr(module, name, value.__wrapped__)


def uneven_rows(vocab: int, count: int = 40) -> list[Row]:
    """Rows of uneven lengths and limits: each third begins alike, each tenth is aborted, and some
    prompts have one token or two: a model may tell the first of all from others."""
    draw = random.Random(count)
    shared = draw.choices(range(vocab), k=SHARED)
    rows = []
    for i in range(count):
        own = draw.choices(range(vocab), k=draw.choice([1, 2, 3, 5, 8, 9, 13, 21, 34, 100]))
        prompt = shared + own if i % 3 == 0 else own[-SHORT.get(i % 12, 0) :]
        comes = i // 8 * 4
        if i % 10 == 5:
            rows.append(Row(prompt, 16, comes, comes + draw.randint(1, 12)))
        else:
            rows.append(Row(prompt, draw.randint(1, 6), comes))
    return rows


def play(scheduler: Scheduler, rows: list[Row]) -> list[list[int]]:
    """Return what came out of each row until its end, or until it left."""
    sequences = [sequence(str(i), row.prompt, row.limit) for i, row in enumerate(rows)]
    now = 0
    while scheduler.has_unfinished or any(row.comes >= now for row in rows):
        for each, row in zip(sequences, rows, strict=True):
            if row.comes == now:
                scheduler.add(each)
            if row.leaves == now and not each.future.done():
                scheduler.remove(each.request_id)
                each.future.cancel()
        assert len(scheduler.running) <= scheduler.max_num_seqs
        step(scheduler)
        now += 1
    assert not any(each.alone for each in sequences), "a step failed"
    for each in sequences:
        if not each.future.cancelled():
            each.future.result(0)
    return [each.output_tokens for each in sequences]


def ties(model: Any, rows: list[Row], found: list[list[int]], alone: list[list[int]]) -> list[str]:
    """Return the rows that part from the answers of the model alone at a tie, as text.

    Raises:
        AssertionError: one parts where the logits of the two tokens differ, or too early.
    """
    said = []
    for i, (row, ours, theirs) in enumerate(zip(rows, found, alone, strict=True)):
        expected = theirs if row.leaves is None else theirs[: len(ours)]
        if ours == expected:
            continue
        where = f"row {i} of {len(row.prompt)} tokens: {ours} instead of {expected}"
        pairs = zip(ours, expected, strict=False)
        at = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
        assert at is not None, where
        gap = logit_gap(model, row.prompt + ours[:at], ours[at], expected[at])
        assert gap < TIE, f"{where}, whose logits differ by {gap:.2g}"
        said.append(f"{where}, whose logits differ by {gap:.1g}")
    return said


Change = Callable[[Any], Any]


def unchanged(cache: Any) -> Any:
    return cache


def next_tokens(
    model: Any, prompts: list[list[int]], first: Change = unchanged, then: Change = unchanged
) -> list[int]:
    """Return the token that follows each prompt.

    Args:
        first: changes the caches before the prompt.
        then: changes them before its last token.
    """
    return [_next_token(model, prompt, first, then) for prompt in prompts]


def _next_token(model: Any, prompt: list[int], first: Change, then: Change) -> int:
    caches = [first(cache) for cache in make_prompt_cache(model)]
    model(mx.array([prompt[:-1]]), cache=caches)
    caches = [then(cache) for cache in caches]
    logits = model(mx.array([prompt[-1:]]), cache=caches)
    return int(mx.argmax(logits[0, -1]))


class _Endless(KVCache):  # type: ignore[misc]
    """Keeps and shows all tokens."""

    def make_mask(self, *given: Any, window_size: Any = None, **options: Any) -> Any:
        return super().make_mask(*given, window_size=None, **options)


def without_window(cache: Any) -> Any:
    """Have a cache that keeps the last few tokens keep all."""
    return _changed(cache, RotatingKVCache, lambda _: _Endless())


def without_state(cache: Any) -> Any:
    """Forget a state."""
    return _changed(cache, ArraysCache, lambda each: type(each)(len(each.cache)))


def _changed(cache: Any, kind: type, change: Change) -> Any:
    if isinstance(cache, CacheList):
        return CacheList(*(_changed(part, kind, change) for part in cache.caches))
    return change(cache) if isinstance(cache, kind) else cache

"""Which runner a model gets: its own if it brings one, or else decided by looking at the caches it
makes and by trying them."""

from __future__ import annotations

import logging
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from vllm_mlx import platform
from vllm_mlx.batching.runner import Runner
from vllm_mlx.batching.slots.budget import KVBudget
from vllm_mlx.batching.slots.cache import PromptKVCache, SlotKVCache
from vllm_mlx.batching.slots.ring import SlotRing
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.batching.upstream import UpstreamRunner
from vllm_mlx.errors import ModelLoadError
from vllm_mlx.scheduler_config import SchedulerConfig

logger = logging.getLogger(__name__)

_PROBE = [3, 1, 2, 5, 4]


def make_runner(
    model: Any,
    eos_token_ids: set[int],
    *,
    vocab_size: int,
    config: SchedulerConfig | None = None,
) -> Runner:
    """The model's own runner if it has a `new_runner`; a `SlotRunner` if every layer keeps plain
    keys and values, else an `UpstreamRunner`.

    Args:
        model: `model(tokens, cache=caches)` gives logits `[B, L, V]`.
        config: bounds; what is None there is the backend's default.
    """
    if (limit := platform.cache_limit()) is not None:
        mx.set_cache_limit(limit)
    bounds = platform.resolve(config or SchedulerConfig())
    if new_runner := getattr(model, "new_runner", None):
        own: Runner = new_runner(vocab_size=vocab_size, bounds=bounds)
        return own
    num_layers = plain_layers(model, vocab_size)
    if num_layers is None and hasattr(model, "prefill"):
        raise ModelLoadError("slots can't hold the cache of this model, which needs them to see")
    if num_layers is None:
        logger.info("slots can't hold this model's cache: it is stepped by mlx-lm's BatchGenerator")
        return UpstreamRunner(model, eos_token_ids, vocab_size=vocab_size, bounds=bounds)
    budget = KVBudget(
        bounds.kv_cache_bytes, _bytes_per_token(model, num_layers), bounds.max_num_seqs
    )
    return SlotRunner(
        model, num_layers=num_layers, vocab_size=vocab_size, budget=budget, bounds=bounds
    )


def plain_layers(model: Any, vocab_size: int) -> int | None:
    """How many plain key-value caches the model takes; None if some of its caches are not plain,
    or if it computes something else with slots than with them."""
    made = make_prompt_cache(model)
    if not made or any(type(cache) is not KVCache for cache in made):
        return None
    try:
        return len(made) if _agrees(model, made, vocab_size) else None
    except Exception as error:  # whatever an architecture does with a cache
        logger.info("slots don't suit this model: %s: %s", type(error).__name__, error)
        return None


def _agrees(model: Any, plain: list[Any], vocab_size: int) -> bool:
    """Whether two slots at different positions give the logits that plain caches give."""
    probe = [token % vocab_size for token in _PROBE]
    tokens = mx.array([probe])
    expected = [model(part, cache=plain)[:, -1] for part in (tokens[:, :-1], tokens[:, -1:])]
    ring = SlotRing(2, 8)
    ring.step = 6  # so that writing wraps around
    slots = [SlotKVCache(ring) for _ in plain]
    for slot, length in enumerate((3, 4)):
        prompt = [PromptKVCache(length) for _ in plain]
        model(tokens[:, :length], cache=prompt)
        for cache, (keys, values) in zip(slots, (each.state for each in prompt), strict=True):
            cache.join_run(range(slot, slot + 1), length, keys, values)
        ring.occupy(slot, length)
    logits = model(mx.array([[probe[3]], [probe[4]]]), cache=slots)[:, -1]
    gap = mx.abs(logits - mx.concatenate(expected)).max()
    scale = mx.abs(logits).max() + 1.0
    return bool((gap / scale < 0.05).item())


def _bytes_per_token(model: Any, num_layers: int) -> int:
    caches = [PromptKVCache(1) for _ in range(num_layers)]
    model(mx.array([[0]]), cache=caches)
    return sum(keys.nbytes + values.nbytes for keys, values in (cache.state for cache in caches))

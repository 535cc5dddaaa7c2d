"""`in_place_budget`: what fits into memory of the caches that a model makes itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from vllm_mlx.batching.runners.reason import reason_of
from vllm_mlx.batching.slots.budget import KVBudget
from vllm_mlx.batching.slots.layout import Footprint, Layout, UnsuitableCacheError
from vllm_mlx.batching.slots.ring import COLUMN_STEP
from vllm_mlx.scheduler_config import Bounds

logger = logging.getLogger(__name__)


def in_place_budget(
    model: Any, bounds: Bounds, new_cache: Callable[[Any], list[Any]] = make_prompt_cache
) -> KVBudget | None:
    """Return the budget of rows that are as long as the longest of them; None if the model does
    not say what it takes.

    Args:
        new_cache: makes the caches of a model, one a layer.
    """
    try:
        footprint = _footprint(model, new_cache)
    except Exception as error:  # whatever an architecture does with a cache
        kind = getattr(model, "model_type", type(model).__name__)
        logger.warning("%s: kv_cache_bytes bounds nothing: %s", kind, reason_of(error))
        return None
    return KVBudget(bounds.kv_cache_bytes, footprint, bounds.max_num_seqs, in_place=True)


def _footprint(model: Any, new_cache: Callable[[Any], list[Any]]) -> Footprint:
    try:
        return Layout.of(new_cache(model)).footprint(model)
    except UnsuitableCacheError:
        return _measured(model, new_cache)


def _measured(model: Any, new_cache: Callable[[Any], list[Any]]) -> Footprint:
    """What grows from a prompt of one token to a longer one is taken to grow for ever."""
    sizes = []
    for length in (1, 1 + COLUMN_STEP):  # nothing of it is computed: arrays know their size before
        caches = new_cache(model)
        model(mx.zeros((1, length), mx.int32), cache=caches)
        arrays: Any = tree_flatten([cache.state for cache in caches])
        sizes.append(sum(each.nbytes for _, each in arrays if isinstance(each, mx.array)))
    short, long = sizes
    per_token = max(0, long - short) // COLUMN_STEP
    return Footprint(per_token, state=max(0, short - per_token))

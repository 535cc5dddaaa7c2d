"""Attention by cache: our caches attend themselves, whatever the architecture.

The architectures of mlx-lm and mlx-vlm call `scaled_dot_product_attention(..., cache=cache)` by a
name in their own module. `dispatch_attention(model)` puts ours there.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import base

_NAME = "scaled_dot_product_attention"
_MASK = "create_attention_mask"
_OURS = "__dispatches_by_cache__"

Attend = Callable[..., mx.array]


def dispatch_attention(model: nn.Module) -> None:
    """Have all modules of a model attend by their cache; other caches go on as they did."""
    for name in {type(module).__module__ for module in model.modules()}:
        namespace = sys.modules[name].__dict__
        theirs = namespace.get(_NAME)
        if callable(theirs) and not hasattr(theirs, _OURS):
            namespace[_NAME] = _by_cache(theirs)


def leave_out_masks(model: nn.Module) -> None:
    """Give modules of a model no mask where their cache attends to all that it holds.

    Some of mlx-vlm cut a mask to the tokens that they believe to be there.
    """
    for name in {type(module).__module__ for module in model.modules()}:
        namespace = sys.modules[name].__dict__
        theirs = namespace.get(_MASK)
        if _NAME in namespace and callable(theirs) and not hasattr(theirs, _OURS):
            namespace[_MASK] = _unless_all(theirs)


def _unless_all(theirs: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(theirs)
    def create_mask(
        h: mx.array,
        cache: Any = None,
        window_size: int | None = None,
        return_array: bool = False,
    ) -> Any:
        mask = theirs(h, cache, window_size=window_size, return_array=return_array)
        first = cache[0] if isinstance(cache, list | tuple) and cache else cache
        is_own = getattr(first, "is_own_mask", None)
        return None if is_own and is_own(mask) and not return_array else mask

    setattr(create_mask, _OURS, True)
    return create_mask


def _by_cache(theirs: Attend) -> Attend:
    @wraps(theirs)
    def attend(
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        cache: Any = None,
        scale: float = 1.0,
        mask: Any = None,
        sinks: mx.array | None = None,
    ) -> mx.array:
        owner = _owner_of(keys) if cache is None else cache
        own: Attend | None = getattr(owner, "attend", None)
        if own is None:
            return theirs(queries, keys, values, cache, scale=scale, mask=mask, sinks=sinks)
        if cache is not None:
            _remember_owner(keys, cache)
        return own(queries, keys, values, scale, mask, sinks)

    setattr(attend, _OURS, True)
    return attend


_owners: dict[int, tuple[weakref.ref[mx.array], weakref.ref[Any]]] = {}
"""By the identity of keys, for layers that attend to those of another one without its cache."""


def _remember_owner(keys: mx.array, cache: Any) -> None:
    key = id(keys)
    held = _owners.get(key)
    if held is None or held[0]() is not keys or held[1]() is not cache:
        _owners[key] = weakref.ref(keys, lambda _: _owners.pop(key, None)), weakref.ref(cache)


def _owner_of(keys: mx.array) -> Any:
    held = _owners.get(id(keys))
    return held[1]() if held and held[0]() is keys else None


scaled_dot_product_attention = _by_cache(base.scaled_dot_product_attention)

"""Attention by cache: our caches attend themselves, whatever the architecture.

The architectures of mlx-lm and mlx-vlm call `scaled_dot_product_attention(..., cache=cache)` by a
name in their own module. `dispatch_attention(model)` puts ours there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import base

_NAME = "scaled_dot_product_attention"
_OURS = "__dispatches_by_cache__"

Attend = Callable[..., mx.array]


def dispatch_attention(model: nn.Module) -> None:
    """Have all modules of a model attend by their cache; other caches go on as they did."""
    for name in {type(module).__module__ for module in model.modules()}:
        namespace = sys.modules[name].__dict__
        theirs = namespace.get(_NAME)
        if callable(theirs) and not hasattr(theirs, _OURS):
            namespace[_NAME] = _by_cache(theirs)


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
        own: Attend | None = getattr(cache, "attend", None)
        if own is None:
            return theirs(queries, keys, values, cache, scale=scale, mask=mask, sinks=sinks)
        return own(queries, keys, values, scale, mask, sinks)

    setattr(attend, _OURS, True)
    return attend


scaled_dot_product_attention = _by_cache(base.scaled_dot_product_attention)

"""The gated delta rule by whichever form is fastest, whatever the architecture.

mlx-lm and mlx-vlm have a kernel for Metal, and elsewhere a loop over tokens or chunks of them.
`dispatch_recurrences(model)` has the model's own `gated_delta_update` compute with the fastest.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from functools import wraps
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from vllm_mlx import platform
from vllm_mlx.platform.fastest import Fastest
from vllm_mlx.platform.gated_delta import Update

_UPDATE = "gated_delta_update"
_FORMS = ("gated_delta_ops", "gated_delta_kernel", "gated_delta_chunked")
"""What theirs ends in, once it has made gates of its arguments."""
_OURS = "__is_the_fastest__"
_ROWS, _TOKENS = 2, 64  # of a trial


def dispatch_recurrences(model: nn.Module) -> None:
    """Have all modules of a model compute the gated delta rule in the fastest form."""
    for name in {type(module).__module__ for module in model.modules()}:
        update = getattr(sys.modules[name], _UPDATE, None)
        if callable(update):
            _dispatch(sys.modules[update.__module__].__dict__)


def _dispatch(namespace: dict[str, Any]) -> None:
    for name in _FORMS:
        theirs = namespace.get(name)
        if callable(theirs) and not hasattr(theirs, _OURS):
            namespace[name] = _fastest(theirs)


def _fastest(theirs: Update) -> Update:
    forms = {"theirs": theirs, **platform.gated_delta_forms()}
    fastest = Fastest("gated delta", forms, _kind, _sample)

    @wraps(theirs)
    def update(
        q: mx.array,
        k: mx.array,
        v: mx.array,
        g: mx.array,
        beta: mx.array,
        state: mx.array | None = None,
        mask: mx.array | None = None,
        state_steps: int | None = None,
    ) -> Any:
        if state_steps is not None:  # mlx-vlm's speculative decoding wants states in between
            return theirs(q, k, v, g, beta, state, mask, state_steps)
        if state is None:
            B, Hv, Dv, Dk = v.shape[0], *v.shape[2:], k.shape[-1]
            state = mx.zeros((B, Hv, Dv, Dk))
        return fastest(q, k, v, g, beta, state, mask)

    setattr(update, _OURS, True)
    return update


def _kind(*arguments: mx.array | None) -> Hashable:
    """What decides which form is fastest: all but the numbers of rows and of tokens."""
    q, *others = arguments
    assert q is not None
    shapes = [(x.dtype, x.shape[2:]) if x is not None else None for x in (q, *others)]
    return ("one token" if q.shape[1] == 1 else "tokens", *shapes)


def _sample(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array,
    mask: mx.array | None,
) -> tuple[mx.array | None, ...]:
    """Cut the arguments to a few rows and tokens.

    What is not a row's own asks for nothing: there the forms answer differently.
    """
    if mask is not None:
        q = q * mask[..., None, None].astype(q.dtype)
        mask = mask[:_ROWS, :_TOKENS]
    by_token = (x[:_ROWS, :_TOKENS] for x in (q, k, v, g, beta))
    return (*by_token, state[:_ROWS], mask)

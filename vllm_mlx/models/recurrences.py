"""Recurrent layers by whichever form is fastest, whatever the architecture.

mlx-lm and mlx-vlm compute the gated delta rule with a kernel on Metal, and elsewhere in a loop over
tokens or in chunks of them. What comes before, gates and masks, stays theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any

import mlx.core as mx

from vllm_mlx import platform
from vllm_mlx.models.rebinding import Makers, rebound
from vllm_mlx.platform.fastest import Fastest
from vllm_mlx.platform.gated_delta import Update

_FORMS = ("gated_delta_ops", "gated_delta_kernel", "gated_delta_chunked")
"""What `gated_delta_update` ends in, once it has made gates of its arguments."""
_ROWS, _TOKENS = 2, 64  # of a trial
_ROWS_OF_STEP = 8
"""Of a trial of one token: with two, what a form costs to launch hides what a batch costs."""


@functools.cache
def _gated_delta_update(theirs: Any) -> Any:
    if not isinstance(theirs, FunctionType):
        return theirs
    forms = {name: theirs.__globals__[name] for name in _FORMS if name in theirs.__globals__}
    return rebound(theirs, {name: _fastest(form) for name, form in forms.items()})


@functools.cache
def _ssm_update(theirs: Any) -> Any:
    if not isinstance(theirs, FunctionType):
        return theirs
    return rebound(theirs, {"ssm_attn": _to_the_end(theirs.__globals__["ssm_attn"])})


def _to_the_end(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Have a scan take each row's state where the row ends, which not every caller tells it."""
    step = platform.scan_tokens()
    options = {} if step is None else {"step": step}

    def scan(*arguments: Any, mask: mx.array | None = None, lengths: mx.array | None = None) -> Any:
        if mask is not None and lengths is None:
            # The last token of a row's own, counted from 1: what pads it may stand on either side.
            lengths = (mask * mx.arange(1, mask.shape[1] + 1)).max(axis=1)
        return theirs(*arguments, mask=mask, lengths=lengths, **options)

    return scan


RECURRENCES: Makers = (("gated_delta_update", _gated_delta_update), ("ssm_update", _ssm_update))


def _fastest(theirs: Update) -> Update:
    forms = {"theirs": theirs, **platform.gated_delta_forms()}
    fastest = Fastest("gated delta", forms, _kind, _sample)

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
    """Cut the arguments to a few rows and tokens; for one token, repeat its rows to some more.

    What is not a row's own asks for nothing: there the forms answer differently.
    """
    if mask is not None:
        q = q * mask[..., None, None].astype(q.dtype)
        mask = mask[:, :_TOKENS]
    given = (*(x[:, :_TOKENS] for x in (q, k, v, g, beta)), state, mask)
    rows = mx.arange(_ROWS_OF_STEP if q.shape[1] == 1 else min(_ROWS, q.shape[0])) % q.shape[0]
    return tuple(None if x is None else x[rows] for x in given)

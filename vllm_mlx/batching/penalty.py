"""The repetition penalty of the fallback runners, as mlx-lm has it: a function a row."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
from mlx_lm.sample_utils import make_logits_processors

from vllm_mlx.sampling_params import SamplingParams

LogitsProcessor = Callable[[mx.array, mx.array], mx.array]


def make_processors(params: SamplingParams) -> list[LogitsProcessor]:
    """Return what changes a row's logits before sampling: the repetition penalty."""
    if params.repetition_penalty == 1.0:
        return []
    return make_logits_processors(repetition_penalty=params.repetition_penalty)

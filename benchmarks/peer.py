"""The peer: mlx-lm's `BatchGenerator`, with its defaults but for the width."""

from __future__ import annotations

import time
from typing import Any

import mlx.nn as nn
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from benchmarks.timing import Run, measured
from benchmarks.workloads import Workload
from vllm_mlx.sampling_params import SamplingParams


def run_peer(
    model: nn.Module, workload: Workload, width: int, limit: float | None = None
) -> Run | None:
    """Generate all of a workload, prompts and samplers taken in on the clock.

    Args:
        width: `completion_batch_size`; everything else is as mlx-lm has it.
        limit: seconds after which the run is given up; the result is None then.

    Raises:
        RuntimeError: it made fewer or more tokens than it was asked for.
    """
    with measured() as run:
        generator = BatchGenerator(model, completion_batch_size=width)
        try:
            generator.insert(
                [list(request.prompt_tokens) for request in workload.requests],
                max_tokens=[request.max_tokens for request in workload.requests],
                samplers=[_sampler(request.params) for request in workload.requests],
                logits_processors=[_processors(request.params) for request in workload.requests],
            )
            generated = _drain(generator, limit)
        finally:
            generator.close()
        del generator
    if generated is None:
        return None
    if generated != workload.output_tokens:
        raise RuntimeError(f"the peer made {generated} tokens of {workload.output_tokens}")
    return run


def _drain(generator: Any, limit: float | None) -> int | None:
    """Tokens generated, or None when the time was over first."""
    generated = 0
    deadline = None if limit is None else time.perf_counter() + limit
    while responses := generator.next_generated():
        generated += len(responses)
        if deadline is not None and time.perf_counter() > deadline:
            return None
    return generated


def _sampler(params: SamplingParams) -> Any:
    """mlx-lm returns one and the same function for every greedy request: one call for a batch."""
    return make_sampler(
        temp=params.temperature, top_p=params.top_p, min_p=params.min_p, top_k=params.top_k
    )


def _processors(params: SamplingParams) -> list[Any]:
    if params.repetition_penalty == 1.0:
        return []
    processors: list[Any] = make_logits_processors(repetition_penalty=params.repetition_penalty)
    return processors

"""The peer: mlx-lm's `BatchGenerator`, with its defaults but for the width."""

from __future__ import annotations

import inspect
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import mlx.nn as nn
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from benchmarks.timing import Run, measured
from benchmarks.workloads import Workload
from vllm_mlx.outputs import EngineStats
from vllm_mlx.sampling_params import SamplingParams


def run_peer(model: nn.Module, workload: Workload, width: int, limit: float | None = None) -> Run:
    """Generate a workload, prompts and samplers taken in on the clock.

    Args:
        width: `completion_batch_size`; everything else is as mlx-lm has it.
        limit: seconds after which the run is cut off; it made fewer tokens then.

    Raises:
        RuntimeError: it made other tokens than it was asked for.
    """
    with published(), measured() as run:
        generator = BatchGenerator(model, completion_batch_size=width)
        try:
            generator.insert(
                [list(request.prompt_tokens) for request in workload.requests],
                max_tokens=[request.max_tokens for request in workload.requests],
                samplers=[_sampler(request.params) for request in workload.requests],
                logits_processors=[_processors(request.params) for request in workload.requests],
            )
            with generator.stats() as done:
                run.tokens, is_whole = _drain(generator, limit)
        finally:
            generator.close()
        del generator
    run.stats = EngineStats(
        prompt_tokens=done.prompt_tokens,
        completion_tokens=run.tokens,
        prefill_seconds=done.prompt_time,
        decode_seconds=done.decode_time,
    )
    if is_whole and run.tokens != workload.output_tokens:
        raise RuntimeError(f"the peer made {run.tokens} tokens of {workload.output_tokens}")
    return run


@contextmanager
def published() -> Iterator[None]:
    """Put back what our loader has replaced in mlx-lm's and mlx-vlm's modules, for so long.

    There its functions wrap theirs, for all models of the process.
    """
    ours = [
        (module.__dict__, name, value)
        for where, module in list(sys.modules.items())
        if where.startswith(("mlx_lm.", "mlx_vlm."))
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__globals__["__name__"].startswith("vllm_mlx.")
    ]
    for namespace, name, value in ours:
        namespace[name] = inspect.unwrap(value)
    try:
        yield
    finally:
        for namespace, name, value in ours:
            namespace[name] = value


def _drain(generator: Any, limit: float | None) -> tuple[int, bool]:
    """Tokens generated, and whether those were all; not when the time was over first."""
    generated = 0
    deadline = math.inf if limit is None else time.perf_counter() + limit
    while True:
        # Not `next_generated`, which does not return before there is a token.
        prompts, responses = generator.next()
        generated += len(responses)
        if not (prompts or responses):
            return generated, True
        if time.perf_counter() > deadline:
            return generated, False


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

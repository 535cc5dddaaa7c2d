"""Our engine, driven on the main thread: scheduler and runner, without the engine's own thread."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.nn as nn

from benchmarks.timing import Run, measured
from benchmarks.workloads import Workload
from vllm_mlx.batching.make_runner import make_runner
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.scheduler_config import SchedulerConfig


class NullDetokenizer:
    """Makes no text: random weights have no tokenizer, and the peer makes none either."""

    def add(self, token: int) -> str:  # noqa: ARG002
        return ""

    def finish(self) -> str:
        return ""


def new_scheduler(model: nn.Module, vocab_size: int, config: SchedulerConfig) -> Scheduler:
    """An engine that stops at no token."""
    runner = make_runner(model, vocab_size=vocab_size, config=config)
    return Scheduler(runner, set())


def sequences_of(workload: Workload) -> Iterator[Sequence]:
    for at, request in enumerate(workload.requests):
        yield Sequence(
            Request("", request.params, f"r{at}"),
            list(request.prompt_tokens),
            max_tokens=request.max_tokens,
            model="bench",
            new_detokenizer=NullDetokenizer,
        )


def run_ours(model: nn.Module, vocab_size: int, config: SchedulerConfig, workload: Workload) -> Run:
    """Generate all of a workload, the engine's start and the taking in of prompts on the clock.

    Raises:
        RuntimeError: it made fewer or more tokens than it was asked for.
        EngineError: a request failed.
    """
    with measured() as run:
        scheduler = new_scheduler(model, vocab_size, config)
        sequences = list(sequences_of(workload))
        for sequence in sequences:
            scheduler.add(sequence)
        while scheduler.has_unfinished:
            for sequence in scheduler.step():
                sequence.deliver()
        run.stats = scheduler.stats
        run.width = scheduler.max_num_seqs
        del scheduler
    generated = sum(sequence.future.result(0).completion_tokens for sequence in sequences)
    if generated != workload.output_tokens:
        raise RuntimeError(f"ours made {generated} tokens of {workload.output_tokens}")
    return run

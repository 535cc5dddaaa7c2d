"""Our engine, driven on the main thread: scheduler and runner, without the engine's own thread."""

from __future__ import annotations

import time
from collections.abc import Iterator

import mlx.nn as nn

from benchmarks.timing import Run, Sample, measured
from benchmarks.workloads import Workload
from vllm_mlx.batching.request import Request
from vllm_mlx.batching.runners.make_runner import make_runner
from vllm_mlx.batching.runners.runner import Runner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.scheduler_config import SchedulerConfig

SAMPLED = 8
"""One step in so many is looked at: that takes some 0.1 ms."""


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
        started = time.perf_counter()
        runner = make_runner(model, vocab_size=vocab_size, config=config)
        scheduler = Scheduler(runner, set())
        run.start_seconds = time.perf_counter() - started
        sequences = list(sequences_of(workload))
        for sequence in sequences:
            scheduler.add(sequence)
        _step_through(scheduler, runner, run)
        run.stats = scheduler.stats
        run.width = scheduler.max_num_seqs
        run.runner = type(runner).__name__
        del scheduler, runner
    run.tokens = sum(sequence.future.result(0).completion_tokens for sequence in sequences)
    if run.tokens != workload.output_tokens:
        raise RuntimeError(f"ours made {run.tokens} tokens of {workload.output_tokens}")
    return run


def _step_through(scheduler: Scheduler, runner: Runner, run: Run) -> None:
    """Step until all is generated, and note how the steps went."""
    sampled = time.perf_counter()
    while scheduler.has_unfinished:
        began = time.perf_counter()
        sequences = scheduler.step()
        for sequence in sequences:
            sequence.deliver()
        if not sequences:
            continue  # a step of prefill alone
        run.rows.append(len(sequences))
        if len(run.rows) % SAMPLED == 0:
            now = time.perf_counter()
            running = scheduler.running.values()
            lengths = [len(s.prompt_tokens) + len(s.output_tokens) for s in running]
            sample = Sample(
                now - sampled, now - began, len(sequences), runner.kv_cache_bytes, lengths
            )
            run.samples.append(sample)
            sampled = now

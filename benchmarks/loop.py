"""What the engine's loop itself costs: Python time per step, with a model that costs nothing.

    python benchmarks/loop.py [--rows 128] [--steps 500]

Three cases, each with `--rows` rows alive:

    greedy    all start and end together; between, nobody joins or leaves
    sampled   the same with T=0.7, top_p=0.9
    churn     greedy, rows of unequal length: one leaves and another joins every few steps

A step is `Scheduler.step()` and the delivery of its tokens. `wall` is what it takes from begin to
end, the computing of the sampler and of the cache included; `python` is the processor time of the
loop's thread (on a CPU MLX computes on another one). Both in ms, the median of `--repeats` runs'
medians and 90th percentiles. Target: 1 ms of `python` a step at 128 rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from statistics import median, quantiles
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache

from benchmarks.ours import new_scheduler, sequences_of
from benchmarks.report import machine, print_head, print_row
from benchmarks.workloads import TokenRequest, Workload
from vllm_mlx import platform
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig

VOCAB_SIZE = 64
PROMPT_TOKENS = 16
WARM_UP = 20  # steps at the start, prompts among them, that are not counted
GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 0.7, "top_p": 0.9, "seed": 0}


class FreeModel(nn.Module):
    """One layer with a plain key-value cache of one head and one number; constant logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Identity()]
        self._logits = mx.zeros((1, 1, VOCAB_SIZE))

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        rows, tokens = inputs.shape
        if cache is not None:
            numbers = mx.zeros((rows, 1, tokens, 1))
            cache[0].update_and_fetch(numbers, numbers)
        return mx.broadcast_to(self._logits, (rows, tokens, VOCAB_SIZE))

    def make_cache(self) -> list[KVCache]:
        return [KVCache()]


class StepTime(NamedTuple):
    """Milliseconds."""

    wall: float
    python: float


def together(rows: int, steps: int, options: dict[str, Any]) -> Workload:
    """`rows` requests of `steps` tokens."""
    return _workload([steps] * rows, options)


def churning(rows: int, steps: int) -> Workload:
    """Answers of 1/8 to 1/4 of `steps`, so many that there are `rows` of them at a time."""
    least = max(1, steps // 8)
    return _workload([least + at * 37 % least for at in range(6 * rows)], GREEDY)


def measure(scheduler: Scheduler, workload: Workload, rows: int) -> list[StepTime]:
    """Run a workload; the time of each step in which all `rows` got a token."""
    for sequence in sequences_of(workload):
        scheduler.add(sequence)
    return list(_steps(scheduler, rows))[WARM_UP:]


def _steps(scheduler: Scheduler, rows: int) -> Iterator[StepTime]:
    while scheduler.has_unfinished:
        wall, python = time.perf_counter(), time.thread_time()
        sequences = scheduler.step()
        for sequence in sequences:
            sequence.deliver()
        taken = StepTime((time.perf_counter() - wall) * 1e3, (time.thread_time() - python) * 1e3)
        if len(sequences) >= 0.9 * rows:
            yield taken


def _workload(outputs: list[int], options: dict[str, Any]) -> Workload:
    prompt = list(range(PROMPT_TOKENS))
    return Workload(
        "loop",
        tuple(
            TokenRequest(prompt, output, SamplingParams.of(max_tokens=output, **options))
            for output in outputs
        ),
    )


def _cells(runs: list[list[StepTime]]) -> list[str]:
    """Median and 90th percentile of wall and Python time."""
    cells = []
    for kind in StepTime._fields:
        taken = [[getattr(step, kind) for step in run] for run in runs]
        p90 = median(quantiles(run, n=10)[-1] for run in taken)
        cells += [f"{median(map(median, taken)):.3f}", f"{p90:.3f}"]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    platform.prepare()
    print("\n".join(f"- {name}: {value}" for name, value in machine().items()))
    print_head(("rows alive", "steps", "wall", "wall p90", "python", "python p90"))
    config = SchedulerConfig(max_num_seqs=given.rows)
    for name, workload in {
        "greedy": together(given.rows, given.steps, GREEDY),
        "sampled": together(given.rows, given.steps, SAMPLED),
        "churn": churning(given.rows, given.steps),
    }.items():
        runs = [
            measure(new_scheduler(FreeModel(), VOCAB_SIZE, config), workload, given.rows)
            for _ in range(given.repeats)
        ]
        print_row([f"{given.rows}, {name}", str(median(map(len, runs))), *_cells(runs)])


if __name__ == "__main__":
    main()

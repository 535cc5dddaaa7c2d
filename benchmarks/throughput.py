"""Our engine against mlx-lm's `BatchGenerator` and against the machine's floor.

Both run the same seeded workload in one process, in turn, with the same weights; the time is the
median of `--repeats`. The peer runs at its fastest width of 8 to 128, found with short probes, and
with its defaults otherwise. Neither stops at a token, so both make the same number of them. The
floor, from bytes, operations and rates measured in the same run, is explained in `floor.py`.

    python benchmarks/throughput.py --shape llama-3.2-3b
    python benchmarks/throughput.py --model smollm2-135m --workloads uneven --peer-requests 48
    python benchmarks/throughput.py --shape qwen3.5-0.8b --layers 6 --requests 48

Seconds are of wall time, tok/s are output tokens per second, GB are what MLX held at most.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.nn as nn

from benchmarks.floor import floor
from benchmarks.matrices import Matrices
from benchmarks.models import ModelPair, named_models, random_models
from benchmarks.options import arguments
from benchmarks.ours import run_ours
from benchmarks.peer import run_peer
from benchmarks.report import (
    COLUMNS,
    STATS_COLUMNS,
    STEPS_COLUMNS,
    Result,
    machine,
    print_head,
    print_header,
    print_rates,
    print_row,
    row,
    stats_row,
    steps_row,
)
from benchmarks.steps import Steps
from benchmarks.timing import Run
from benchmarks.widths import FIRST, best_width
from benchmarks.workloads import WORKLOADS, Workload
from vllm_mlx import platform
from vllm_mlx.scheduler_config import SchedulerConfig

STARTED = time.perf_counter()
WARM_UP_TOKENS = 32


class Bench:
    """The models and what to do with them, for one workload after the other."""

    def __init__(self, given: argparse.Namespace, models: ModelPair) -> None:
        self._given = given
        self._models = models
        self._config = SchedulerConfig(
            max_num_seqs=given.max_num_seqs, max_num_batched_tokens=given.max_num_batched_tokens
        )
        self.max_num_seqs = platform.resolve(self._config).max_num_seqs
        matrices = Matrices(models.peers)
        self.costs, self.rates = matrices.costs(), matrices.measure(self.max_num_seqs)

    def run(self, workload: Workload) -> Result:
        given = self._given
        result = Result(
            workload, floor(self.costs, self.rates, workload.requests, self.max_num_seqs), [], []
        )
        warm_up = workload.first(given.warm_up).answered_by(WARM_UP_TOKENS)
        timed = workload.first(given.peer_requests) if given.peer_requests else workload
        if given.only != "peer":
            _say(f"{workload.name}: ours, warm-up on {len(warm_up.requests)} requests")
            self._ours(warm_up)
        if given.only != "ours":
            result.peer_width = self._peer_width(timed)
        before = time.perf_counter()
        for repeat in range(given.repeats):
            if repeat and not self._has_time_for(time.perf_counter() - before):
                _say(f"{workload.name}: {repeat} of {given.repeats} repeats, no time for more")
                break
            before = time.perf_counter()
            if given.only != "peer":
                run = self._ours(workload)
                result.ours.append(run)
                _say(f"{workload.name} {repeat + 1}: ours {_times(run)}")
            if given.only != "ours" and repeat < given.peer_repeats:
                run = run_peer(self._models.peers, timed, result.peer_width, given.peer_seconds)
                result.peer.append(run)
                _say(f"{workload.name} {repeat + 1}: peer {_times(run)}, {run.tokens} tokens")
        return result

    def _has_time_for(self, seconds: float) -> bool:
        limit = self._given.seconds
        return limit is None or time.perf_counter() - STARTED + seconds < limit

    def _ours(self, workload: Workload) -> Run:
        return run_ours(self._models.ours, self._models.vocab_size, self._config, workload)

    def _peer_width(self, workload: Workload) -> int:
        """Its probes warm the peer up, too, but for the first of them."""
        given = self._given
        warm_up = workload.first(min(8, given.warm_up)).answered_by(WARM_UP_TOKENS)
        run_peer(self._models.peers, warm_up, FIRST, given.probe_seconds)
        if len(given.peer_width) == 1:
            return int(given.peer_width[0])
        return best_width(
            lambda width, requests, limit: _probe(
                self._models.peers, workload.first(requests), width, limit
            ),
            len(workload.requests),
            given.sample,
            given.probe_seconds,
            given.peer_width,
        )


def _probe(model: nn.Module, sample: Workload, width: int, limit: float) -> float | None:
    try:
        run = run_peer(model, sample, width, limit)
    except RuntimeError as error:  # MLX raises it when memory does not suffice
        _say(f"{sample.name}: peer, width {width}: {error}")
        return None
    is_whole = run.tokens == sample.output_tokens
    said = f"{run.seconds:.2f} s" if is_whole else f"given up after {run.seconds:.2f} s"
    _say(f"{sample.name}: peer, width {width}, {len(sample.requests)} requests: {said}")
    return run.seconds if is_whole else None


def _times(run: Run) -> str:
    return f"{run.seconds:.2f} s, {run.cpu_seconds:.2f} s of processor time"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    given = arguments(__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # how the model runs
    models = (
        random_models(given.shape, given.bits, given.seed, given.layers)
        if given.shape
        else named_models(given.model)
    )
    about = machine()
    command = shlex.join(["python", "benchmarks/throughput.py", *sys.argv[1:]])
    print_header(command, models.name, about)
    bench = Bench(given, models)
    print_rates(bench.costs, bench.rates)
    print_head(COLUMNS)
    results = []
    for name in given.workloads:
        workload = WORKLOADS[name](given.requests, models.vocab_size, given.seed)
        results.append(bench.run(workload))
        print_row(row(results[-1]))
        if given.json:
            head = {**about, "command": command, "model": models.name}
            _write_json(given.json, head, bench, results)
    ours = [(result, run) for result in results if (run := result.ours_median)]
    if ours:
        print_head(STATS_COLUMNS)
        for result, run in ours:
            print_row(stats_row(result, run))
        print_head(STEPS_COLUMNS)
        for result, run in ours:
            steps = Steps.of(run, result.workload, bench.costs, bench.rates.bandwidth)
            print_row(steps_row(result, run, steps))


def _write_json(path: Path, head: dict[str, Any], bench: Bench, results: list[Result]) -> None:
    costs = {"costs": asdict(bench.costs), "rates": asdict(bench.rates)}
    found = []
    for result in results:
        run = result.ours_median
        steps = run and Steps.of(run, result.workload, bench.costs, bench.rates.bandwidth)
        found.append({**result.as_dict(), "steps": steps and asdict(steps)})
    path.write_text(json.dumps({**head, **costs, "results": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

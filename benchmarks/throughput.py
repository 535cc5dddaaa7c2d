"""Our engine against mlx-lm's `BatchGenerator` and against the machine's floor.

Both run the same seeded workload in one process, in turn, with the same weights; the time is the
median of `--repeats`. The peer runs at its fastest width of 8 to 128, found with short probes, and
with its defaults otherwise. Neither stops at a token, so both make the same number of them. The
floor, from bytes, operations and rates measured in the same run, is explained in `floor.py`.

    python benchmarks/throughput.py --shape llama-3.2-3b
    python benchmarks/throughput.py --model smollm2-135m --workloads uneven --peer-sample 48

Seconds are of wall time, tok/s are output tokens per second, GB are what MLX held at most.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import mlx.nn as nn

from benchmarks.floor import floor
from benchmarks.matrices import Matrices
from benchmarks.models import SHAPES, ModelPair, named_models, random_models
from benchmarks.ours import new_scheduler, run_ours
from benchmarks.peer import run_peer
from benchmarks.report import (
    COLUMNS,
    STATS_COLUMNS,
    Result,
    machine,
    print_head,
    print_header,
    print_rates,
    print_row,
    row,
    stats_row,
)
from benchmarks.timing import Run
from benchmarks.widths import FIRST, best_width
from benchmarks.workloads import SEED, WORKLOADS, Workload
from vllm_mlx import platform
from vllm_mlx.scheduler_config import SchedulerConfig

REQUESTS = {"cpu": 96, "cuda": 512, "metal": 512}
SAMPLE = {"cpu": 24, "cuda": 96, "metal": 96}
WARM_UP = {"cpu": 4, "cuda": 96, "metal": 96}  # requests: a GPU's first kernels are compiled


class Bench:
    """The models and what to do with them, for one workload after the other."""

    def __init__(self, given: argparse.Namespace, models: ModelPair) -> None:
        self._given = given
        self._models = models
        self._config = SchedulerConfig(
            max_num_seqs=given.max_num_seqs, max_num_batched_tokens=given.max_num_batched_tokens
        )
        self.max_num_seqs = new_scheduler(models.ours, models.vocab_size, self._config).max_num_seqs
        matrices = Matrices(models.peers)
        self.costs, self.rates = matrices.costs(), matrices.measure(self.max_num_seqs)

    def run(self, workload: Workload) -> Result:
        given = self._given
        result = Result(
            workload, floor(self.costs, self.rates, workload.requests, self.max_num_seqs), [], []
        )
        warm_up = workload.first(WARM_UP[platform.backend()])
        timed = workload.first(given.peer_sample) if given.peer_sample else workload
        if given.only != "peer":
            _say(f"{workload.name}: ours, warm-up on {len(warm_up.requests)} requests")
            self._ours(warm_up)
        if given.only != "ours":
            result.peer_width = given.peer_width or self._peer_width(timed)
            result.peer_scale = workload.output_tokens / timed.output_tokens
        for repeat in range(given.repeats):
            if given.only != "peer":
                result.ours.append(self._ours(workload))
                _say(f"{workload.name} {repeat + 1}: ours {result.ours[-1].seconds:.2f} s")
            if given.only != "ours":
                run = run_peer(self._models.peers, timed, result.peer_width)
                assert run is not None, "without a limit, a run is never given up"
                result.peer.append(run)
                _say(f"{workload.name} {repeat + 1}: peer {run.seconds:.2f} s")
        return result

    def _ours(self, workload: Workload) -> Run:
        return run_ours(self._models.ours, self._models.vocab_size, self._config, workload)

    def _peer_width(self, workload: Workload) -> int:
        """Its probes warm the peer up, too, but for the first of them."""
        warm_up = workload.first(min(8, WARM_UP[platform.backend()]))
        run_peer(self._models.peers, warm_up, FIRST, self._given.probe_seconds)
        return best_width(
            lambda width, requests, limit: _probe(
                self._models.peers, workload.first(requests), width, limit
            ),
            len(workload.requests),
            self._given.sample,
            self._given.probe_seconds,
        )


def _probe(model: nn.Module, sample: Workload, width: int, limit: float) -> float | None:
    try:
        run = run_peer(model, sample, width, limit)
    except RuntimeError as error:  # MLX raises it when memory does not suffice
        _say(f"{sample.name}: peer, width {width}: {error}")
        return None
    said = f"{run.seconds:.2f} s" if run else f"given up after {limit:.2f} s"
    _say(f"{sample.name}: peer, width {width}, {len(sample.requests)} requests: {said}")
    return run.seconds if run else None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    given = _arguments()
    models = (
        random_models(given.shape, given.bits, given.seed)
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
            _write_json(given.json, {**about, "command": command, "model": models.name}, results)
    ours = [(result, run) for result in results if (run := result.ours_median)]
    if ours:
        print_head(STATS_COLUMNS)
    for result, run in ours:
        print_row(stats_row(result, run))


def _write_json(path: Path, about: dict[str, Any], results: list[Result]) -> None:
    found = {**about, "results": [result.as_dict() for result in results]}
    path.write_text(json.dumps(found, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a hub id, a folder, a .gguf file, or an alias")
    model.add_argument("--shape", choices=SHAPES, help="random weights in this shape")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="quantize --shape's weights")
    parser.add_argument(
        "--workloads", type=_names, default=list(WORKLOADS), help=",".join(WORKLOADS)
    )
    parser.add_argument("--requests", type=_count, help="512; 96 on a CPU")
    parser.add_argument("--repeats", type=_count, default=3)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", choices=("ours", "peer", "both"), default="both")
    parser.add_argument("--max-num-seqs", type=_count, help="ours")
    parser.add_argument("--max-num-batched-tokens", type=_count, help="ours")
    parser.add_argument("--peer-width", type=_count, help="instead of searching for the best")
    parser.add_argument(
        "--peer-sample",
        type=_count,
        help="time the peer on that many requests only, and scale by output tokens",
    )
    parser.add_argument(
        "--sample", type=_count, help="requests of a width's probe: 96; 24 on a CPU"
    )
    parser.add_argument(
        "--probe-seconds", type=float, default=300.0, help="a probe that takes longer is given up"
    )
    parser.add_argument("--json", type=Path, help="write every run's figures there, too")
    given = parser.parse_args()
    if given.bits and not given.shape:
        parser.error("--bits: goes with --shape only")
    given.requests = given.requests or REQUESTS[platform.backend()]
    given.sample = given.sample or SAMPLE[platform.backend()]
    return given


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(WORKLOADS):
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: should be of {', '.join(WORKLOADS)}"
        )
    return names


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}: should be at least 1")
    return number


if __name__ == "__main__":
    main()

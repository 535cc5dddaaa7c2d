"""The options of `throughput.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.shapes import TEXT
from benchmarks.widths import WIDTHS
from benchmarks.workloads import SEED, WORKLOADS
from vllm_mlx import platform

REQUESTS = {"cpu": 96, "cuda": 512, "metal": 512}
SAMPLE = {"cpu": 24, "cuda": 96, "metal": 96}
WARM_UP = {"cpu": 4, "cuda": 96, "metal": 96}  # requests: a GPU's first kernels are compiled


def arguments(about: str | None) -> argparse.Namespace:
    """What the command line says; `about` is the text of its help."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a hub id, a folder, a .gguf file, or an alias")
    model.add_argument("--shape", choices=TEXT, help="random weights in this shape")
    parser.add_argument("--bits", type=int, choices=(4, 8), help="quantize --shape's weights")
    parser.add_argument(
        "--workloads", type=_names, default=list(WORKLOADS), help=",".join(WORKLOADS)
    )
    parser.add_argument("--requests", type=_count, help="512; 96 on a CPU")
    parser.add_argument("--layers", type=_count, help="the first so many of --shape's")
    parser.add_argument("--repeats", type=_count, default=3)
    parser.add_argument(
        "--seconds", type=float, help="begin no repeat that would end later than this"
    )
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--warm-up", type=_count, help="requests: 96; 4 on a CPU")
    parser.add_argument("--only", choices=("ours", "peer", "both"), default="both")
    parser.add_argument("--max-num-seqs", type=_count, help="ours")
    parser.add_argument("--max-num-batched-tokens", type=_count, help="ours")
    parser.add_argument(
        "--peer-width", type=_counts, default=WIDTHS, help="of these the fastest: 8,16,32,64,128"
    )
    parser.add_argument(
        "--peer-requests",
        type=_count,
        help="time the peer on that many requests only, and take its rates for the others",
    )
    parser.add_argument("--peer-repeats", type=_count, help="as many as --repeats")
    parser.add_argument(
        "--peer-seconds",
        type=float,
        help="cut the peer off then, and take its rates of prefill and decode for what is left: it "
        "is spared the end, where few rows are left, but not the beginning",
    )
    parser.add_argument(
        "--sample", type=_count, help="requests of a width's probe: 96; 24 on a CPU"
    )
    parser.add_argument(
        "--probe-seconds", type=float, default=300.0, help="a probe that takes longer is given up"
    )
    parser.add_argument("--json", type=Path, help="write every run's figures there, too")
    given = parser.parse_args()
    for name in ("bits", "layers"):
        if getattr(given, name) and not given.shape:
            parser.error(f"--{name}: goes with --shape only")
    given.peer_repeats = given.peer_repeats or given.repeats
    given.requests = given.requests or REQUESTS[platform.backend()]
    given.warm_up = given.warm_up or WARM_UP[platform.backend()]
    given.sample = given.sample or SAMPLE[platform.backend()]
    return given


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(WORKLOADS):
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: should be of {', '.join(WORKLOADS)}"
        )
    return names


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(_count, text.split(","))))


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number}: should be at least 1")
    return number

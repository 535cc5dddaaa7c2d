"""What `throughput.py` prints: the machine, a row a workload, our engine's counters."""

from __future__ import annotations

import os
import platform as python_platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

import mlx.core as mx

from benchmarks.floor import Costs, Floor, Rates
from benchmarks.steps import Steps
from benchmarks.timing import Run
from benchmarks.workloads import Workload
from vllm_mlx import platform

COLUMNS = (
    "workload", "requests", "prompt", "output", "floor s", "floor at shapes s", "ours s",
    "ours/floor", "ours tok/s", "ours GB", "peer width", "peer s", "peer tokens", "peer tok/s",
    "peer GB", "peer/ours",
)  # fmt: skip
STATS_COLUMNS = (
    "workload", "runner", "max_num_seqs", "steps", "mean width", "prefill tokens", "padding",
    "cached tokens", "start s", "schedule s", "prefill s", "decode s", "deliver s", "rest s",
)  # fmt: skip
STEPS_COLUMNS = (
    "workload", "prefill tok/s", "peer's", "decode tok/s", "peer's", "a step ms", "its bytes ms",
    "step/bytes", "a full step ms", "its bytes ms", "full step/bytes", "reserved GB", "held GB",
    "held/reserved",
)  # fmt: skip


@dataclass
class Result:
    """A workload's times. `ours` or `peer` is empty when that engine did not run."""

    workload: Workload
    floor: Floor
    ours: list[Run]
    peer: list[Run]
    peer_width: int = 0

    @property
    def ours_seconds(self) -> float | None:
        return median(run.seconds for run in self.ours) if self.ours else None

    @property
    def peer_all_seconds(self) -> list[float]:
        """Of each of the peer's runs, for all of the workload."""
        return [self._whole(run) for run in self.peer if run.tokens]

    def _whole(self, run: Run) -> float:
        """Return what all of the workload takes at the rates of a run that was a part of it.

        Prefill and decode apart: a run that is cut off has seen more of the one than of the other.
        """
        if run.tokens == self.workload.output_tokens:
            return run.seconds
        done = run.stats
        least = done.prefill_seconds + done.decode_seconds
        whole = (
            done.prefill_seconds * self.workload.prompt_tokens / done.prompt_tokens
            + done.decode_seconds * self.workload.output_tokens / done.completion_tokens
        )
        return whole * run.seconds / least

    @property
    def peer_seconds(self) -> float | None:
        return median(self.peer_all_seconds) if self.peer_all_seconds else None

    @property
    def ours_median(self) -> Run | None:
        """The run whose time is the median, or next above it."""
        return (
            sorted(self.ours, key=lambda r: r.seconds)[len(self.ours) // 2] if self.ours else None
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "workload": self.workload.name,
            "requests": len(self.workload.requests),
            "prompt_tokens": self.workload.prompt_tokens,
            "output_tokens": self.workload.output_tokens,
            "floor": {**asdict(self.floor), "seconds": self.floor.seconds},
            "ours": [asdict(run) for run in self.ours],
            "peer": [asdict(run) for run in self.peer],
            "peer_width": self.peer_width,
            "ours_seconds": self.ours_seconds,
            "peer_seconds": self.peer_seconds,
        }


def machine() -> dict[str, Any]:
    """What the figures were taken on and with."""
    return {
        "machine": python_platform.platform(),
        "device": f"{mx.device_info().get('device_name', 'unknown')} ({platform.backend()})",
        "cores": os.cpu_count(),
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS"),
        "python": python_platform.python_version(),
        **{package: _version(package) for package in ("mlx", "mlx-lm", "mlx-batch")},
    }


def print_header(command: str, model: str, given: dict[str, Any]) -> None:
    print("\n".join(f"- {name}: {value}" for name, value in given.items() if value is not None))
    print(f"- model: {model}\n- command: `{command}`")


def print_rates(costs: Costs, rates: Rates) -> None:
    steps = ", ".join(f"{width}: {s * 1e3:.2f}" for width, s in rates.step_seconds.items())
    print(
        f"- parameters: {costs.body_parameters / 1e6:,.1f} M in the layers, "
        f"{costs.head_parameters / 1e6:,.1f} M in the head; {costs.weight_bytes / 1e9:.2f} GB; "
        f"{_experts(costs)}a sequence of 1,000 tokens holds {costs.held(1000) / 1e6:.1f} MB\n"
        f"- measured: matmul {rates.matmul / 1e12:.3f} Top/s, "
        f"memory {rates.bandwidth / 1e9:.1f} GB/s"
        + (f"\n- the model's matmuls, ms by rows: {steps}" if steps else "")
    )


def _experts(costs: Costs) -> str:
    if not costs.expert_bytes:
        return ""
    read = (costs.weights_read(32) - costs.weight_bytes) / 1e9
    return f"{costs.expert_bytes / 1e9:.2f} GB of experts, a step of 32 reads {read:.2f}; "


def print_head(columns: Sequence[str]) -> None:
    print()
    print_row(columns)
    print_row(["---"] * len(columns))


def print_row(cells: Sequence[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def row(result: Result) -> list[str]:
    """A row under `COLUMNS`."""
    workload, ours, peer = result.workload, result.ours_seconds, result.peer_seconds
    return [
        workload.name,
        str(len(workload.requests)),
        f"{workload.prompt_tokens:,}",
        f"{workload.output_tokens:,}",
        _seconds(result.floor.seconds),
        _seconds(result.floor.seconds_at_shapes),
        _seconds(ours) + _spread([run.seconds for run in result.ours]),
        _ratio(ours, result.floor.seconds),
        _rate(workload.output_tokens, ours),
        _gigabytes(result.ours),
        str(result.peer_width or "-"),
        _seconds(peer) + _spread(result.peer_all_seconds),
        f"{min(run.tokens for run in result.peer):,}" if result.peer else "-",
        _rate(workload.output_tokens, peer),
        _gigabytes(result.peer),
        _ratio(peer, ours),
    ]


def stats_row(result: Result, run: Run) -> list[str]:
    """A row under `STATS_COLUMNS`."""
    stats = run.stats
    prefilled = stats.prompt_tokens - stats.cached_tokens
    computed = prefilled + stats.padding_tokens
    parts = [
        stats.schedule_seconds,
        stats.prefill_seconds,
        stats.decode_seconds,
        stats.deliver_seconds,
    ]
    return [
        result.workload.name,
        run.runner,
        str(run.width),
        f"{stats.steps:,}",
        f"{stats.completion_tokens / stats.steps:.1f}" if stats.steps else "-",
        f"{prefilled:,}",
        f"{stats.padding_tokens / computed:.1%}" if computed else "-",
        f"{stats.cached_tokens:,}",
        *map(_seconds, (run.start_seconds, *parts)),
        _seconds(run.seconds - run.start_seconds - sum(parts)),
    ]


def steps_row(result: Result, run: Run, steps: Steps) -> list[str]:
    """A row under `STEPS_COLUMNS`."""
    peer = result.peer[0] if result.peer else Run()
    return [
        result.workload.name,
        *(f"{each.stats.prefill_tokens_per_second:,.0f}" for each in (run, peer)),
        *(f"{each.stats.decode_tokens_per_second:,.0f}" for each in (run, peer)),
        *_milliseconds(steps.mean, steps.mean_of_bytes),
        *_milliseconds(steps.full, steps.full_of_bytes),
        *(f"{steps.reserved / 1e9:.2f}", f"{steps.held / 1e9:.2f}"),
        _ratio(steps.held, steps.reserved or None),
    ]


def _milliseconds(step: float, of_bytes: float) -> list[str]:
    return [f"{step * 1e3:.2f}", f"{of_bytes * 1e3:.2f}", _ratio(step, of_bytes or None)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout
        return "not installed"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}"


def _spread(seconds: list[float]) -> str:
    """The least and the most of several runs."""
    if len(seconds) < 2:
        return ""
    return f" ({_seconds(min(seconds))} to {_seconds(max(seconds))})"


def _ratio(above: float | None, below: float | None) -> str:
    return "-" if above is None or below is None else f"{above / below:.2f}"


def _rate(tokens: int, seconds: float | None) -> str:
    if seconds is None:
        return "-"
    rate = tokens / seconds
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _gigabytes(runs: list[Run]) -> str:
    return f"{max(run.peak_bytes for run in runs) / 1e9:.1f}" if runs else "-"

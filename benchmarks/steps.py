"""`Steps`: how long our engine's steps took, beside the time that their bytes take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from benchmarks.floor import Costs
from benchmarks.timing import Run, Sample
from benchmarks.workloads import Workload

FULL = 0.9
"""A step is full that has this share of the rows of the widest."""


@dataclass(frozen=True)
class Steps:
    """Seconds and bytes of one run.

    The bytes of a step are the weights that its rows read and what they move of their memories.

    Attributes:
        mean: decode time of a step.
        mean_of_bytes: what its bytes take at the machine's rate.
        full: wall time of a step with hardly a free place, the median of some of them.
        full_of_bytes: the same for its bytes.
        reserved: bytes of the engine's caches, over the time of the run.
        held: bytes of them that rows in decoding had use for.
    """

    mean: float
    mean_of_bytes: float
    full: float
    full_of_bytes: float
    reserved: float
    held: float

    @classmethod
    def of(cls, run: Run, workload: Workload, costs: Costs, bandwidth: float) -> Steps:
        def seconds(sample: Sample) -> float:
            moved = sum(map(costs.moved, sample.lengths))
            return (costs.weights_read(sample.rows) + moved) / bandwidth

        steps = max(1, len(run.rows))
        weights = sum(map(costs.weights_read, run.rows))
        widest = max(run.rows, default=0)
        full = [each for each in run.samples if each.rows >= FULL * widest]
        time = sum(sample.after for sample in run.samples) or 1.0
        return cls(
            mean=run.stats.decode_seconds / steps,
            mean_of_bytes=(weights + _moved(workload, costs)) / bandwidth / steps,
            full=_median(sample.step for sample in full),
            full_of_bytes=_median(seconds(sample) for sample in full),
            reserved=sum(sample.after * sample.reserved for sample in run.samples) / time,
            held=sum(s.after * sum(map(costs.held, s.lengths)) for s in run.samples) / time,
        )


def _moved(workload: Workload, costs: Costs) -> int:
    """Bytes of memories that all steps move: they are the same in whatever order rows run."""
    return sum(
        costs.moved(len(request.prompt_tokens) + step)
        for request in workload.requests
        for step in range(request.max_tokens)
    )


def _median(values: Iterable[float]) -> float:
    found = list(values)
    return median(found) if found else 0.0

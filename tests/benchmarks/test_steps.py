"""Step times beside those of their bytes, on numbers for the back of an envelope."""

from __future__ import annotations

import pytest

from benchmarks.floor import Costs
from benchmarks.steps import Steps
from benchmarks.timing import Run, Sample
from benchmarks.workloads import TokenRequest, Workload
from vllm_mlx.batching.slots.layout import Footprint
from vllm_mlx.outputs import EngineStats
from vllm_mlx.sampling_params import SamplingParams

COSTS = Costs(
    body_parameters=100,
    head_parameters=10,
    weight_bytes=1000,
    footprint=Footprint(per_token=4),
    operations_per_kv_byte=2,
)


def workload(*requests: tuple[int, int]) -> Workload:
    return Workload(
        "test", tuple(TokenRequest([0] * n, m, SamplingParams.of()) for n, m in requests)
    )


def test_a_step_beside_its_bytes() -> None:
    run = Run(rows=[2, 2, 1], stats=EngineStats(decode_seconds=60.0))
    steps = Steps.of(run, workload((10, 2), (20, 3)), COSTS, bandwidth=100.0)
    moved = 4 * (10 + 11 + 20 + 21 + 22)
    assert steps.mean == pytest.approx(20.0)
    assert steps.mean_of_bytes == pytest.approx((3 * 1000 + moved) / 100 / 3)


def test_full_steps_and_what_is_held_come_from_the_samples() -> None:
    run = Run(
        rows=[10, 10, 1],
        samples=[Sample(3.0, 0.5, 10, 4000, [25] * 10), Sample(1.0, 0.1, 1, 4000, [50])],
    )
    steps = Steps.of(run, workload(), COSTS, bandwidth=100.0)
    assert steps.full == 0.5  # the narrow one is none
    assert steps.full_of_bytes == pytest.approx((1000 + 10 * 25 * 4) / 100)
    assert steps.reserved == 4000
    assert steps.held == pytest.approx((3 * 1000 + 1 * 200) / 4)

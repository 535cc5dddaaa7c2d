"""What a part of a workload says about all of it."""

from __future__ import annotations

import pytest

from benchmarks.floor import Floor
from benchmarks.report import Result
from benchmarks.timing import Run
from benchmarks.workloads import TokenRequest, Workload
from vllm_mlx.outputs import EngineStats
from vllm_mlx.sampling_params import SamplingParams


def result(*peer: Run) -> Result:
    """Of 100 prompt tokens and 40 output tokens."""
    requests = (TokenRequest([0] * 50, 20, SamplingParams.of()),) * 2
    return Result(Workload("test", requests), Floor(1.0, 1.0, None, 1), [], list(peer))


def test_a_whole_run_counts_as_it_is() -> None:
    assert result(Run(seconds=7.0, tokens=40)).peer_seconds == 7.0


def test_a_part_is_scaled_by_prefill_and_decode_apart() -> None:
    done = EngineStats(
        prompt_tokens=50, prefill_seconds=4.0, completion_tokens=4, decode_seconds=1.0
    )
    cut = Run(seconds=5.5, tokens=4, stats=done)  # half a second is neither
    assert result(cut).peer_seconds == pytest.approx((4.0 * 2 + 1.0 * 10) * 1.1)


def test_a_run_without_a_token_says_nothing() -> None:
    assert result(Run(seconds=5.0)).peer_seconds is None

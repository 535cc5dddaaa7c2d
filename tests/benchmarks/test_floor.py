"""The floor's arithmetic on cases small enough for the back of an envelope."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.floor import (
    Costs,
    Rates,
    Step,
    floor,
    ideal_schedule,
    interpolate,
    prefill_operations,
)
from benchmarks.workloads import TokenRequest
from vllm_mlx.batching.slots.layout import Footprint
from vllm_mlx.sampling_params import SamplingParams

COSTS = Costs(
    body_parameters=100,
    head_parameters=10,
    weight_bytes=440,
    footprint=Footprint(per_token=4),
    operations_per_kv_byte=2,
)


def request(prompt: int, output: int, shared: int = 0) -> TokenRequest:
    return TokenRequest([0] * prompt, output, SamplingParams.of(), shared)


def test_a_prompt_needs_its_layers_its_attention_and_one_head() -> None:
    assert prefill_operations(COSTS, [request(6, 1)]) == 2 * 100 * 6 + 2 * 10 + 8 * 18


def test_a_shared_prefix_is_computed_once() -> None:
    # The prefix of 4: 8 pairs. Behind it 6²/2 - 4²/2 = 10 each. And 2²/2 of the one without.
    requests = [request(6, 1, shared=4), request(6, 1, shared=4), request(2, 1)]
    tokens, pairs = 4 + 2 + 2 + 2, 8 + 10 + 10 + 2
    assert prefill_operations(COSTS, requests) == 2 * 100 * tokens + 2 * 10 * 3 + 8 * pairs


def test_longest_first_into_the_place_that_is_free_first() -> None:
    # Steps: 4, 2 and 1 into two places: [4], [2, 1].
    steps = ideal_schedule([request(10, 2), request(20, 3), request(30, 5)], 2, int)
    assert steps == [
        Step(2, 31 + 21),
        Step(2, 32 + 22),
        Step(2, 33 + 11),
        Step(1, 34),
    ]


def test_an_answer_of_one_token_takes_no_step() -> None:
    assert ideal_schedule([request(10, 1)] * 3, 2, int) == []


def test_no_row_is_lost_or_wider_than_allowed() -> None:
    requests = [request(5, 1 + at * 7 % 23) for at in range(50)]
    steps = ideal_schedule(requests, 8, int)
    assert sum(step.rows for step in steps) == sum(r.max_tokens - 1 for r in requests)
    assert max(step.rows for step in steps) == 8


def test_a_step_is_bound_by_bytes_or_by_operations() -> None:
    requests = [request(15, 2), request(15, 2)]
    moved, operations = 440 + 32 * 4, 2 * 110 * 2
    by_bytes = floor(COSTS, Rates(matmul=1e6, bandwidth=100.0), requests, 2)
    assert by_bytes.decode == pytest.approx(moved / 100)
    by_operations = floor(COSTS, Rates(matmul=10.0, bandwidth=1e6), requests, 2)
    assert by_operations.decode == pytest.approx(operations / 10)
    assert by_operations.steps == 1
    assert by_operations.seconds == by_operations.prefill + by_operations.decode


def test_a_window_and_a_state_move_no_more_than_they_hold() -> None:
    costs = replace(COSTS, footprint=Footprint(per_token=4, windows=((10, 3),), state=100))
    assert costs.held(5) == 5 * 4 + 5 * 3 + 100
    assert costs.held(25) == 25 * 4 + 10 * 3 + 100
    assert costs.moved(25) == costs.held(25) + 100  # a state is written, too
    # The prompt of 25: 25²/2 pairs, in a window of 10 those of its first 10 and then 10 each.
    assert costs.attention(25) == 2 * (4 * 25**2 / 2 + 3 * (10**2 / 2 + 15 * 10))


def test_a_step_reads_the_experts_that_its_rows_choose() -> None:
    costs = replace(COSTS, expert_bytes=1000, chosen=0.25)
    assert costs.weights_read(1) == 440 + 250
    assert costs.weights_read(2) == 440 + 1000 * (1 - 0.75**2)
    assert costs.weights_read(1000) == pytest.approx(1440)


def test_at_shapes_takes_the_measured_seconds_of_a_step() -> None:
    rates = Rates(matmul=10.0, bandwidth=100.0, step_seconds={1: 2.0, 2: 3.0})
    found = floor(COSTS, rates, [request(15, 3), request(15, 2)], 2)
    kv_tokens = (16 + 16) + 17
    assert found.decode_at_shapes == pytest.approx(3.0 + 2.0 + kv_tokens * 4 / 100)
    assert found.seconds_at_shapes == pytest.approx(found.prefill + 5.0 + kv_tokens * 4 / 100)


def test_without_measured_widths_there_is_no_floor_at_shapes() -> None:
    found = floor(COSTS, Rates(matmul=10.0, bandwidth=100.0), [request(15, 3)], 2)
    assert found.decode_at_shapes is None
    assert found.seconds_at_shapes is None


def test_between_measured_widths_time_is_linear() -> None:
    points = {2: 10.0, 4: 20.0, 8: 24.0}
    assert [interpolate(points, at) for at in (1, 2, 3, 4, 6, 8, 16)] == [
        10.0, 10.0, 15.0, 20.0, 22.0, 24.0, 48.0,
    ]  # fmt: skip

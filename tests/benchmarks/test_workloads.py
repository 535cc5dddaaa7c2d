"""The workloads are what they say: sizes, seeds, bounds, shared prefixes, sampling settings."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from benchmarks.workloads import SEED, WORKLOADS, long_tail, mixed, uneven


def test_uneven_has_the_documented_totals() -> None:
    workload = uneven(512, 32_000, SEED)
    assert workload.prompt_tokens == pytest.approx(72_628, rel=0.01)
    assert workload.output_tokens == pytest.approx(52_253, rel=0.01)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_same_seed_gives_the_same_workload(name: str) -> None:
    assert WORKLOADS[name](20, 500, 1) == WORKLOADS[name](20, 500, 1)
    assert WORKLOADS[name](20, 500, 1) != WORKLOADS[name](20, 500, 2)


@pytest.mark.parametrize("name", WORKLOADS)
def test_tokens_are_of_the_vocabulary_and_lengths_do_not_depend_on_it(name: str) -> None:
    small, large = WORKLOADS[name](20, 10, 1), WORKLOADS[name](20, 100_000, 1)
    assert all(0 <= t < 10 for request in small.requests for t in request.prompt_tokens)
    assert [(len(r.prompt_tokens), r.max_tokens) for r in small.requests] == [
        (len(r.prompt_tokens), r.max_tokens) for r in large.requests
    ]


@pytest.mark.parametrize("name", WORKLOADS)
def test_max_tokens_stand_in_the_sampling_params_too(name: str) -> None:
    workload = WORKLOADS[name](20, 500, 1)
    assert all(request.params.max_tokens == request.max_tokens for request in workload.requests)


def test_uneven_is_clipped_and_greedy() -> None:
    requests = uneven(5000, 2, 0).requests
    prompts = [len(request.prompt_tokens) for request in requests]
    outputs = [request.max_tokens for request in requests]
    assert (min(prompts), max(prompts)) == (8, 600)
    assert (min(outputs), max(outputs)) == (4, 400)
    assert all(request.params.greedy for request in requests)


def test_long_tail_is_uneven_with_a_tenth_ten_times_as_long() -> None:
    plain, workload = uneven(40, 500, 1), long_tail(40, 500, 1)
    times = [
        (len(long.prompt_tokens) / len(short.prompt_tokens), long.max_tokens / short.max_tokens)
        for short, long in zip(plain.requests, workload.requests, strict=True)
    ]
    assert Counter(times) == {(1.0, 1.0): 36, (10.0, 10.0): 4}


def test_cut_answers_leave_the_prompts_alone() -> None:
    workload = uneven(20, 500, 1)
    cut = workload.answered_by(32)
    assert [r.prompt_tokens for r in cut.requests] == [r.prompt_tokens for r in workload.requests]
    assert [r.max_tokens for r in cut.requests] == [
        min(32, r.max_tokens) for r in workload.requests
    ]
    assert all(r.params.max_tokens == r.max_tokens for r in cut.requests)


def test_mixed_is_uneven_with_a_system_prompt_for_half_of_it() -> None:
    plain, workload = uneven(40, 500, 1), mixed(40, 500, 1)
    with_system = [request for request in workload.requests if request.shared_tokens]
    assert len(with_system) == 20
    assert len({tuple(request.prompt_tokens[:150]) for request in with_system}) == 1
    for own, request in zip(plain.requests, workload.requests, strict=True):
        assert request.prompt_tokens[request.shared_tokens :] == own.prompt_tokens
        assert request.max_tokens == own.max_tokens


def test_mixed_has_a_quarter_of_each_setting_and_seeds_where_it_draws() -> None:
    params = [request.params for request in mixed(40, 500, 1).requests]
    settings = Counter(
        (p.temperature, p.top_p, p.top_k, p.min_p, p.repetition_penalty)
        for p in params
        if not p.greedy
    )
    assert settings == {
        (0.7, 0.9, 0, 0.0, 1.0): 10,
        (1.0, 1.0, 50, 0.0, 1.0): 10,
        (0.8, 1.0, 0, 0.05, 1.1): 10,
    }
    assert all((p.seed is None) == p.greedy for p in params)


def test_prefix_shares_a_preamble_and_nothing_more() -> None:
    requests = WORKLOADS["prefix"](8, 500, 1).requests
    assert {len(request.prompt_tokens) for request in requests} == {1030}
    assert {request.max_tokens for request in requests} == {40}
    for one, other in pairwise(requests):
        assert one.prompt_tokens[:1000] == other.prompt_tokens[:1000]
        assert one.prompt_tokens[1000:] != other.prompt_tokens[1000:]


def test_short_and_long() -> None:
    short = WORKLOADS["short"](100, 500, 1).requests
    assert {len(request.prompt_tokens) for request in short} == {200}
    assert {request.max_tokens for request in short} == {1, 2, 3, 4}
    long = WORKLOADS["long"](100, 500, 1).requests
    assert [(len(request.prompt_tokens), request.max_tokens) for request in long] == [
        (4096, 128)
    ] * 8


def test_the_first_of_a_workload() -> None:
    workload = uneven(20, 500, 1)
    assert workload.first(5).requests == workload.requests[:5]
    assert workload.first(50) == workload

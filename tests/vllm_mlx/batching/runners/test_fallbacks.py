"""mlx-lm's own batches and single rows, for what slots can't hold: bounded, flat and seeded."""

from __future__ import annotations

import io
import random
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import RotatingKVCache

from tests.helpers.decoding import VOCAB, run, sequence, sequential, step, tiny_llama
from tests.vllm_mlx.batching.runners.test_make_runner import (
    MEMORIES,
    QuantizedCaches,
    build,
    foreign,
)
from vllm_mlx.batching.runners.cache_budget import in_place_budget
from vllm_mlx.batching.runners.make_runner import make_runner
from vllm_mlx.batching.runners.one_by_one import OneByOneRunner, text_runner
from vllm_mlx.batching.runners.upstream import UpstreamRunner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.scheduler_config import Bounds, SchedulerConfig

WINDOW, STATE = MEMORIES["sliding window"][0], MEMORIES["state space"][0]


def mamba2() -> Any:
    return build(
        "mamba2",
        num_heads=8,
        head_dim=8,
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        state_size=16,
        num_hidden_layers=2,
        layer_norm_epsilon=1e-4,
        conv_kernel=3,
        n_groups=4,
        use_bias=False,
        use_conv_bias=False,
        tie_word_embeddings=False,
        time_step_limit=[0.01, 10.0],
        time_step_rank="auto",
        max_position_embeddings=512,
    )


def foreign_window() -> Any:
    return foreign("sliding window")


PROMPT = [3, 1, 4, 1, 5, 9, 2]


def bounds_of(**changes: int) -> Bounds:
    return Bounds(
        **{"max_num_seqs": 8, "max_num_batched_tokens": 64, "kv_cache_bytes": 1 << 30} | changes
    )


def upstream(model: Any, **changes: int) -> Scheduler:
    return Scheduler(UpstreamRunner(model, vocab_size=VOCAB, bounds=bounds_of(**changes)), set())


def nodes(array: mx.array) -> int:
    """How large the graph is that an array is still to be computed from."""
    dot = io.StringIO()
    mx.export_to_dot(dot, array)
    return dot.getvalue().count("\n")


def test_the_graph_stays_flat_over_five_hundred_steps() -> None:
    """mlx-lm #1845: counts that no layer asks for grew by an operation a step."""
    model = mamba2()
    scheduler = upstream(model)
    rows = [sequence(str(i), PROMPT[i:], 560) for i in range(2)]
    for row in rows:
        scheduler.add(row)
    sizes = []
    while scheduler.has_unfinished:
        step(scheduler)
        if scheduler.stats.steps in (20, 520):
            caches = scheduler._runner._generator._generation_batch.prompt_cache
            sizes.append([nodes(each.left_padding) for each in caches])
    first, last = sizes[0], sizes[-1]
    assert first == last
    assert max(last) < 20
    assert [row.output_tokens for row in rows] == [
        sequential(model, PROMPT[i:], 560) for i in range(2)
    ]


def sampled(count: int = 14) -> list[Sequence]:
    draw = random.Random(2)
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.8, "top_p": 1.0},
        {"temperature": 1.2, "top_p": 0.8, "top_k": 9},
        {"temperature": 1.0, "min_p": 0.05, "repetition_penalty": 1.3},
        {"presence_penalty": 1.5, "frequency_penalty": 0.8, "ignore_eos": True},
        {"temperature": 1.0, "logit_bias": {3: -100, 5: 4}, "frequency_penalty": -0.5},
        {"stop_token_ids": list(range(0, VOCAB, 2)), "min_tokens": 3},
    ]
    return [
        sequence(
            str(i),
            draw.choices(range(VOCAB), k=draw.randint(1, 9)),
            draw.randint(3, 25),
            **({"seed": i} if "temperature" in kinds[i % 7] else {}),
            **kinds[i % 7],
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("kind", ["batches", "alone"])
@pytest.mark.parametrize("make", [WINDOW, STATE], ids=["window", "state"])
def test_seeded_rows_are_those_of_slots(make: Any, kind: str) -> None:
    """Whatever steps a row, and whoever joins or leaves beside it, it draws the same numbers."""
    model, config = make(), SchedulerConfig(max_num_seqs=5)
    runner = make_runner(model, vocab_size=VOCAB, config=config)
    assert isinstance(runner, SlotRunner)
    expected = run(Scheduler(runner, set()), sampled())
    if kind == "batches":
        other = upstream(model, max_num_seqs=5)
    else:
        other = Scheduler(text_runner(model, vocab_size=VOCAB, bounds=bounds_of()), set())
    rows = sampled()
    for row in rows:
        other.add(row)
    while not rows[4].output_tokens:
        step(other)
    gone = other.remove(next(name for name in other.running))
    while other.has_unfinished:
        step(other)
    for row, tokens in zip(rows, expected, strict=True):
        assert row.output_tokens == (tokens[: len(row.output_tokens)] if row is gone else tokens)


@pytest.mark.parametrize("kind", ["slots", "batches", "alone"])
def test_log_probabilities_are_the_models_own_whatever_a_row_is_chosen_by(kind: str) -> None:
    model = WINDOW()
    ban = {"logit_bias": {int(model(mx.array([PROMPT]))[0, -1].argmax()): -100}}
    row = sequence("a", PROMPT, 6, logprobs=1, frequency_penalty=1.0, **ban)
    if kind == "slots":
        scheduler = Scheduler(
            make_runner(model, vocab_size=VOCAB, config=SchedulerConfig(max_num_seqs=2)), set()
        )
    elif kind == "batches":
        scheduler = upstream(model)
    else:
        scheduler = Scheduler(text_runner(model, vocab_size=VOCAB, bounds=bounds_of()), set())
    run(scheduler, [row])
    tokens = list(PROMPT)
    for said in row.future.result(0).logprobs or ():
        logits = model(mx.array([tokens]))[0, -1]
        own = logits - mx.logsumexp(logits)
        assert said.logprob == pytest.approx(own[said.token_id].item(), abs=1e-4)
        assert said.top[0].logprob == pytest.approx(own.max().item(), abs=1e-4)
        tokens.append(said.token_id)
    assert tokens[len(PROMPT)] not in ban["logit_bias"]


def test_rows_that_start_over_draw_and_count_from_the_start() -> None:
    params = {"temperature": 1.0, "frequency_penalty": 1.0, "min_tokens": 4, "stop_token_ids": [5]}
    rows = [sequence(str(i), PROMPT, 9, seed=i, **params) for i in range(3)]
    expected = run(upstream(WINDOW(), max_num_seqs=3), rows)
    scheduler = upstream(WINDOW(), max_num_seqs=3)
    again = [sequence(str(i), PROMPT, 9, seed=i, **params) for i in range(3)]
    for row in again:
        scheduler.add(row)
    for _ in range(4):
        step(scheduler)
    assert all(row.output_tokens for row in again)
    scheduler._runner.close()
    scheduler._start_over(again, RuntimeError("the step failed"))
    while scheduler.has_unfinished:
        step(scheduler)
    assert [row.output_tokens for row in again] == expected


def test_a_batch_is_sampled_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = upstream(WINDOW())
    sample, widths = scheduler._runner._sample, []

    def note(logprobs: mx.array) -> mx.array:
        widths.append(logprobs.shape[0])
        return sample(logprobs)

    monkeypatch.setattr(scheduler._runner._generator, "sampler", note)
    for name in ("_prompt_batch", "_generation_batch"):
        monkeypatch.setattr(getattr(scheduler._runner._generator, name), "fallback_sampler", note)
    run(scheduler, [sequence(str(i), PROMPT, 20, temperature=1.0, seed=i) for i in range(6)])
    assert max(widths) == 6
    assert len(widths) <= scheduler.stats.steps + 6


@pytest.mark.parametrize("make", [WINDOW, STATE, foreign_window], ids=["window", "state", "other"])
def test_rows_are_admitted_by_bytes(make: Any) -> None:
    model = make()
    one = upstream(model)._runner._budget.footprint.slot(256)
    scheduler = upstream(model, kv_cache_bytes=5 * one)
    runner = scheduler._runner
    rows = [sequence(str(i), PROMPT, 9) for i in range(12)]
    for row in rows:
        scheduler.add(row)
    most = held = 0
    while scheduler.has_unfinished:
        step(scheduler)
        most, held = max(most, len(scheduler.running)), max(held, runner.kv_cache_bytes)
    assert 3 <= most <= 5
    assert 0 < held <= 5 * one
    assert [row.output_tokens for row in rows] == [sequential(model, PROMPT, 9)] * 12


@pytest.mark.parametrize("make", [WINDOW, foreign_window], ids=["window", "other"])
def test_what_can_never_fit_is_refused_with_its_numbers(make: Any) -> None:
    for runner in (
        UpstreamRunner(make(), vocab_size=VOCAB, bounds=bounds_of(kv_cache_bytes=1 << 20)),
        text_runner(make(), vocab_size=VOCAB, bounds=bounds_of(kv_cache_bytes=1 << 20)),
    ):
        assert runner.refusal(100, 100) is None
        said = runner.refusal(100_000, 100_000)
        assert said is not None
        assert "kv_cache_bytes is 1,048,576" in said


def test_measured_bytes_are_those_of_the_caches() -> None:
    budget = in_place_budget(QuantizedCaches(), bounds_of())
    assert budget is not None
    D, layers, heads = 64, 2, 2
    # Keys and values: 8 bits each, and a scale and a bias in float32 for every 32 of them.
    assert budget.footprint.per_token == layers * heads * 2 * (D + D // 32 * 8)
    # It grows in steps of 256 tokens.
    assert budget.footprint.slot(0) == 255 * budget.footprint.per_token


def test_one_row_alone_is_seen_in_its_cache() -> None:
    scheduler = Scheduler(text_runner(tiny_llama(), vocab_size=VOCAB, bounds=bounds_of()), set())
    assert isinstance(scheduler._runner, OneByOneRunner)
    scheduler.add(sequence("row", PROMPT, 5))
    step(scheduler)
    assert scheduler.stats.kv_cache_bytes > 0


def test_a_window_that_keeps_its_first_tokens_runs_alone():
    """mlx-lm's batches would forget them, and slots have no form for them."""
    model = tiny_llama()
    layers = len(model.layers)
    model.make_cache = lambda: [RotatingKVCache(16, keep=4) for _ in range(layers)]
    runner = make_runner(model, vocab_size=VOCAB, config=SchedulerConfig(max_num_seqs=4))
    assert isinstance(runner, OneByOneRunner)
    prompts = [[(3 * i + at) % VOCAB for at in range(size)] for i, size in enumerate((3, 10, 40))]
    rows = [sequence(str(i), prompt, 20) for i, prompt in enumerate(prompts)]
    assert run(Scheduler(runner, set()), rows) == [sequential(model, each, 20) for each in prompts]

"""The log-probabilities of prompts are those of a forward pass, in every runner."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import pytest

from tests.helpers.decoding import (
    VOCAB,
    Poisoned,
    new_scheduler,
    run,
    sequence,
    sequential,
    tiny_llama,
)
from tests.helpers.text_folders import new_model
from vllm_mlx.batching.logits import prompt_scores
from vllm_mlx.batching.runners.one_by_one import text_runner
from vllm_mlx.batching.runners.upstream import UpstreamRunner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.sequence import Sequence
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.errors import NonFiniteLogitsError
from vllm_mlx.scheduler_config import Bounds

BOUNDS = Bounds(max_num_seqs=6, max_num_batched_tokens=24, kv_cache_bytes=1 << 30)
NEAR = 1e-4


def in_slots(model: Any) -> Scheduler:
    scheduler = new_scheduler(model, max_num_seqs=6, max_num_batched_tokens=24)
    assert isinstance(scheduler._runner, SlotRunner)
    return scheduler


def upstream(model: Any) -> Scheduler:
    return Scheduler(UpstreamRunner(model, vocab_size=VOCAB, bounds=BOUNDS), set())


def one_by_one(model: Any) -> Scheduler:
    return Scheduler(text_runner(model, vocab_size=VOCAB, bounds=BOUNDS), set())


RUNNERS = {"in slots": in_slots, "mlx-lm's batches": upstream, "one by one": one_by_one}


def forward(model: Any, tokens: list[int]) -> list[list[float]]:
    """Log-probabilities of all tokens behind each of a prompt."""
    logits = model(mx.array([tokens]))[0].astype(mx.float32)
    found: Any = (logits - mx.logsumexp(logits, axis=-1, keepdims=True)).tolist()
    return found


def assert_equal(model: Any, row: Sequence) -> None:
    output = row.future.result(0)
    assert output.prompt_logprobs
    none, *places = output.prompt_logprobs
    assert none is None
    assert [each.token_id for each in places if each] == row.prompt_tokens[1:]
    for each, expected in zip(places, forward(model, row.prompt_tokens), strict=False):
        assert each
        assert each.logprob == pytest.approx(expected[each.token_id], abs=NEAR)
        likeliest = sorted(expected, reverse=True)[: row.params.prompt_logprobs]
        assert [top.logprob for top in each.top] == pytest.approx(likeliest, abs=NEAR)
        for top in each.top:
            assert top.logprob == pytest.approx(expected[top.token_id], abs=NEAR)


def prompts(count: int, shared: int = 0) -> list[list[int]]:
    draw = random.Random(count)
    start = draw.choices(range(8, VOCAB), k=shared)
    lengths = [1, 2, 3, 16, 17, 40, 5, 33]
    return [
        start + draw.choices(range(8, VOCAB), k=lengths[at % len(lengths)]) for at in range(count)
    ]


@pytest.mark.parametrize("new", RUNNERS.values(), ids=RUNNERS)
def test_they_are_those_of_a_forward_pass(new: Any) -> None:
    model = tiny_llama()
    rows = [
        sequence(str(at), each, at % 3, prompt_logprobs=at % 4)
        for at, each in enumerate(prompts(16))
    ]

    tokens = run(new(model), rows)

    for row, found in zip(rows, tokens, strict=True):
        assert_equal(model, row)
        assert found == sequential(model, row.prompt_tokens, row.max_tokens)
        assert row.finish_reason == "length"


@pytest.mark.parametrize("name", ["mamba2", "gemma2", "qwen3_next", "mixtral"])
def test_so_they_are_of_other_memories(name: str) -> None:
    model = new_model(name)
    scheduler = new_scheduler(model, vocab_size=model.args.vocab_size, max_num_seqs=4)
    rows = [sequence(str(at), each, 0, prompt_logprobs=1) for at, each in enumerate(prompts(6, 40))]

    run(scheduler, rows)

    for row in rows:
        assert_equal(model, row)


def test_what_prompts_share_is_scored_once() -> None:
    model = tiny_llama()
    tails = prompts(8)
    passages = prompts(3, shared=64)[-2:]
    rows = [
        sequence(f"{at} {n}", passage + tail, 0, prompt_logprobs=2)
        for n, passage in enumerate(passages)
        for at, tail in enumerate([*tails, []])
    ]
    scheduler = in_slots(model)

    run(scheduler, rows)

    for row in rows:
        assert_equal(model, row)
    assert sum(row.cached_tokens > 60 for row in rows) >= len(rows) - 4
    computed = scheduler.stats.prompt_tokens - scheduler.stats.cached_tokens
    assert computed < sum(len(row.prompt_tokens) for row in rows) / 3


def test_rows_that_ask_for_none_beside_them_are_unchanged() -> None:
    model = tiny_llama()
    shared = prompts(6, shared=48)
    plain = [sequence(f"plain {at}", each, 6) for at, each in enumerate(shared)]
    scored = [
        sequence(f"scored {at}", each, at % 2, prompt_logprobs=at % 3)
        for at, each in enumerate(shared)
    ]
    both = [each for pair in zip(plain, scored, strict=True) for each in pair]

    run(in_slots(model), both)

    for row in plain:
        assert row.output_tokens == sequential(model, row.prompt_tokens, 6)
        assert row.future.result(0).prompt_logprobs is None
    for row in scored:
        assert_equal(model, row)


def test_logits_are_measured_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_scores, "MOST_BYTES", 4 * VOCAB * 5)
    model, pieces = tiny_llama(), []
    real = prompt_scores.measure
    monkeypatch.setattr(
        "vllm_mlx.batching.slots.scoring.measure",
        lambda logits, *rest: (pieces.append(logits.shape), real(logits, *rest))[1],
    )
    row = sequence("a", prompts(6)[-1], 0, prompt_logprobs=0)

    run(in_slots(model), [row])

    assert_equal(model, row)
    assert max(length for _, length, _ in pieces) == 5


def test_a_step_without_scores_computes_no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setattr(
        "vllm_mlx.batching.slots.scoring.measure", lambda *given: called.append(given)
    )

    run(in_slots(tiny_llama()), [sequence("a", [9, 8, 7], 4), sequence("b", [9, 8, 7], 0)])

    assert called == []


@pytest.mark.parametrize("new", RUNNERS.values(), ids=RUNNERS)
def test_without_scores_and_tokens_a_prompt_is_only_counted(new: Any) -> None:
    rows = [sequence(str(at), each, 0) for at, each in enumerate(prompts(4))]

    assert run(new(tiny_llama()), rows) == [[]] * 4

    for row in rows:
        output = row.future.result(0)
        assert (output.prompt_tokens, output.completion_tokens) == (len(row.prompt_tokens), 0)
        assert (output.text, output.finish_reason, output.seed) == ("", "length", None)


@pytest.mark.parametrize("new", RUNNERS.values(), ids=RUNNERS)
def test_scores_that_are_no_numbers_fail_their_row_alone(new: Any) -> None:
    model: Any = tiny_llama()
    scheduler = new(model)
    runner = scheduler._runner
    getattr(runner, "_prefills", runner)._model = Poisoned(model)
    if new is one_by_one:
        scheduler = Scheduler(text_runner(Poisoned(model), vocab_size=VOCAB, bounds=BOUNDS), set())
    good = sequence("good", [9, 8, 10, 11], 0, prompt_logprobs=0)
    bad = sequence("bad", [9, 7, 10, 11], 0, prompt_logprobs=0)
    for each in (bad, good):
        scheduler.add(each)
    while scheduler.has_unfinished:
        for each in scheduler.step():
            each.deliver()

    assert isinstance(bad.future.exception(0), NonFiniteLogitsError)
    assert_equal(model, good)


def test_one_that_is_aborted_meanwhile_tells_nothing() -> None:
    model = tiny_llama()
    scheduler = in_slots(model)
    rows = [
        sequence(str(at), each, 2 * (at % 2), prompt_logprobs=0)
        for at, each in enumerate(prompts(8, 40))
    ]
    for each in rows:
        scheduler.add(each)
    scheduler.step()
    for each in rows[::3]:
        each.future.cancel()
        scheduler.remove(each.request_id)
    while scheduler.has_unfinished:
        for each in scheduler.step():
            each.deliver()

    for at, row in enumerate(rows):
        if at % 3:
            assert_equal(model, row)
    assert scheduler._runner._needs == {}

"""What a sequence leaves behind that ends before its time."""

from __future__ import annotations

import random

import pytest

from tests.helpers.decoding import (
    BYTES_PER_TOKEN,
    Poisoned,
    new_scheduler,
    run,
    sequence,
    sequential,
    step,
    tiny_llama,
)


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def prompt_of(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices([token for token in range(61) if token != 7], k=length)


@pytest.mark.parametrize("tokens", [8000, 16_000])
def test_the_budget_holds_after_a_long_prompt_is_cancelled(model, tokens):
    scheduler = new_scheduler(
        model,
        max_num_seqs=64,
        max_num_batched_tokens=16,
        kv_cache_bytes=tokens * BYTES_PER_TOKEN,
    )
    common = prompt_of(99, 1980)
    run(scheduler, [sequence(f"f{i}", common + prompt_of(200 + i, 5), 1) for i in range(2)])
    scheduler.add(sequence("short", prompt_of(0, 4), 240))
    for _ in range(3):
        step(scheduler)
    scheduler.add(sequence("long", prompt_of(1, 1500), 10))
    for _ in range(2):
        step(scheduler)
    scheduler.remove("long")
    for i in range(60):
        scheduler.add(sequence(str(i), prompt_of(2 + i, 8), 200))
    while scheduler.has_unfinished:
        step(scheduler)
        assert scheduler.stats.kv_cache_bytes <= tokens * BYTES_PER_TOKEN


def test_a_cancelled_prompt_and_its_prefix_are_computed_no_further(model):
    scheduler = new_scheduler(model, max_num_seqs=4, max_num_batched_tokens=16)
    common = prompt_of(1, 800)
    scheduler.add(sequence("neighbour", prompt_of(2, 4), 50))
    for _ in range(3):
        step(scheduler)
    for name in "ab":
        scheduler.add(sequence(name, common + prompt_of(ord(name), 40), 5))
    for _ in range(3):
        step(scheduler)
    runner = scheduler._runner
    scheduler.remove("a")
    step(scheduler)
    assert runner._prefills.batches  # the other one still needs the prefix
    scheduler.remove("b")
    for _ in range(3):
        step(scheduler)
    assert not runner._prefills.batches
    assert not runner._prefixes.reserved_bytes
    assert runner.kv_cache_bytes == sum(memory.nbytes for memory in runner._memories)


@pytest.mark.parametrize("leaving", [1, 2, 3])
def test_one_of_a_batch_in_prefill_leaves_and_the_others_join(model, leaving):
    prompts = [prompt_of(0, 41), *(prompt_of(i, 11) for i in (1, 2, 3))]
    scheduler = new_scheduler(model, max_num_seqs=4, max_num_batched_tokens=64)
    rows = [sequence(str(i), prompt, 6) for i, prompt in enumerate(prompts)]
    for row in rows:
        scheduler.add(row)
    step(scheduler)  # the long prompt leaves 24 tokens to the others, which are 30
    (batch,) = scheduler._runner._prefills.batches
    assert (len(batch.rows), batch.computed, batch.length) == (3, 8, 10)
    scheduler.remove(str(leaving))
    while scheduler.has_unfinished:
        step(scheduler)
    assert not rows.pop(leaving).output_tokens
    assert [row.output_tokens for row in rows] == [
        sequential(model, row.prompt_tokens, 6) for row in rows
    ]
    assert not any(row.alone for row in rows), "a step failed, and they were computed once more"
    assert not scheduler._runner._needs
    assert not scheduler._runner._prefills.cancelled


def test_a_poisoned_row_that_is_cancelled_poisons_no_heir(model):
    scheduler = new_scheduler(Poisoned(model), max_num_seqs=4)
    scheduler.add(sequence("bad", [*prompt_of(1, 30), 7, *prompt_of(2, 10)], 20))
    step(scheduler)
    scheduler.remove("bad")
    heir = sequence("good", prompt_of(50, 4), 3)
    run(scheduler, [heir])
    assert len(heir.output_tokens) == 3

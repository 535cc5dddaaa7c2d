"""Memory is bounded and flat, whatever the layers of a model remember."""

from __future__ import annotations

import random

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from tests.helpers.architectures import KINDS, VOCAB
from tests.helpers.decoding import new_scheduler, run, sequence, step
from tests.helpers.sizes import sizes
from tests.helpers.text_folders import new_model
from vllm_mlx import platform
from vllm_mlx.batching.slots.layout import Layout
from vllm_mlx.batching.slots.runner import SlotRunner

COLUMNS = 256


def prompt_of(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=length)


@pytest.mark.parametrize("kind", KINDS)
def test_the_budget_holds_at_every_step(kind):
    model = new_model(KINDS[kind])
    footprint = Layout.of(make_prompt_cache(model)).footprint(model)
    budget = 14 * footprint.slot(COLUMNS)
    draw = random.Random(4)
    scheduler = new_scheduler(model, vocab_size=VOCAB, max_num_seqs=16, kv_cache_bytes=budget)
    shared = prompt_of(5, 64)
    for i in range(40):
        prompt = (shared if i % 3 == 0 else []) + prompt_of(i, draw.randint(1, 300))
        scheduler.add(sequence(str(i), prompt, draw.randint(1, 30)))
    most, widest = 0, 0
    while scheduler.has_unfinished:
        step(scheduler)
        stats = scheduler.stats
        most, widest = max(most, stats.kv_cache_bytes), max(widest, stats.running)
        assert stats.kv_cache_bytes <= budget
    assert isinstance(scheduler._runner, SlotRunner)
    assert most > budget / 4
    assert 1 < widest < 16


@pytest.mark.parametrize("kind", ["keys and values", "windows and states"])
@pytest.mark.parametrize("requests", sizes(400, 2000))
def test_memory_stays_flat(kind, requests, monkeypatch):
    limit = 64 << 20
    monkeypatch.setattr(platform, "cache_limit", lambda: limit)
    mx.clear_cache()
    mx.reset_peak_memory()
    draw = random.Random(3)
    scheduler = new_scheduler(new_model(KINDS[kind]), vocab_size=VOCAB, max_num_seqs=16)

    def batch(count):
        for i in range(count):
            size = 300 if i % 20 == 0 else draw.randint(1, 200)
            scheduler.add(sequence(str(i), prompt_of(i, size), draw.randint(1, 12)))
        while scheduler.has_unfinished:
            step(scheduler)
        # One that is alone fits the ring to itself, however wide the last ones left it.
        run(scheduler, [sequence("last", prompt_of(0, 9), 3)])
        mx.synchronize()

    batch(200)
    held, peak = mx.get_active_memory(), mx.get_peak_memory()
    for _ in range(200, requests, 200):
        batch(200)
        assert mx.get_cache_memory() <= limit
        assert mx.get_active_memory() <= held * 1.1
    assert mx.get_peak_memory() <= peak * 1.2


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_in_pieces_is_counted_once(kind):
    model = new_model(KINDS[kind])
    footprint = Layout.of(make_prompt_cache(model)).footprint(model)
    scheduler = new_scheduler(model, vocab_size=VOCAB, max_num_batched_tokens=16)
    scheduler.add(sequence("pieces", prompt_of(1, 200), 4))
    while not scheduler._runner._running:
        assert scheduler.stats.kv_cache_bytes <= footprint.prompt(200)
        step(scheduler)

"""What our code does on Metal, computed elsewhere: the same answers by the paths that run there."""

from __future__ import annotations

import random
from itertools import accumulate
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.models import qwen3_moe

from benchmarks.workloads import SEED, uneven
from tests.helpers.decoding import (
    CONFIG,
    VOCAB,
    new_scheduler,
    run,
    sequence,
    sequential,
    tiny_llama,
)
from tests.helpers.metal import choose_as_metal
from vllm_mlx import platform
from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.runners.one_by_one import text_runner
from vllm_mlx.batching.runners.upstream import UpstreamRunner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.slots.prefill import group
from vllm_mlx.batching.slots.prefill_row import PrefillRow
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.models.accelerated import accelerate
from vllm_mlx.models.loading import load_model
from vllm_mlx.scheduler_config import SchedulerConfig


@pytest.fixture(autouse=True)
def on_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    choose_as_metal(monkeypatch)


def prompts(count: int, longest: int = 90) -> list[list[int]]:
    draw = random.Random(4)
    return [draw.choices(range(VOCAB), k=draw.randint(1, longest)) for _ in range(count)]


def window_and_all() -> Any:
    return tiny_llama(
        layer_types=["full_attention", "sliding_attention"] * 2,
        sliding_window=20,
        num_hidden_layers=4,
    )


def test_the_mask_is_copied_for_the_heads_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "compiles_steps", lambda: False)  # or it is called once
    model = accelerate(window_and_all())
    attend, masks = mx.fast.scaled_dot_product_attention, []

    def note(queries: mx.array, *given: Any, mask: Any = None, **options: Any) -> mx.array:
        if isinstance(mask, mx.array) and queries.shape[2] == 1:
            assert mask.shape[:3] == (*queries.shape[:2], 1)
            masks.append(mask)
        return attend(queries, *given, mask=mask, **options)

    scheduler = new_scheduler(model, max_num_seqs=5)
    assert isinstance(scheduler._runner, SlotRunner)
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", note)
    given = prompts(9)
    tokens = run(scheduler, [sequence(str(i), each, 12) for i, each in enumerate(given)])

    decoded = len(masks) // 4  # steps of four layers
    assert decoded >= 20
    assert len({id(mask) for mask in masks}) == 2 * decoded  # one for each ring
    monkeypatch.undo()
    assert tokens == [sequential(model, each, 12) for each in given]


def test_little_of_what_prompts_cost_is_padding() -> None:
    rows = [
        PrefillRow(request.prompt_tokens[:-1], None, sequence("row", [1], 1))
        for request in uneven(512, VOCAB, SEED).requests
    ]
    shapes, computed = platform.prefill_shapes(), 0
    for first in (0, *range(64, 512, 2)):  # a full batch, and then what takes the places of two
        joining = rows[first : first + (64 if first == 0 else 2)]
        for batch in group(joining, shapes, 2048, lambda *_: True):
            computed += batch.length * len(batch.rows)
    own = sum(len(row.tokens) for row in rows)
    assert 0.05 < 1 - own / computed < 0.07


def test_the_batch_is_as_wide_as_a_tile() -> None:
    model = tiny_llama()
    scheduler = new_scheduler(model, max_num_seqs=64)
    given = prompts(45)
    for i, each in enumerate(given):
        scheduler.add(sequence(str(i), each, 3 + i))
    widths = []
    while scheduler.has_unfinished:
        scheduler.step()
        widths.append(scheduler.stats.slots)
    assert set(widths) <= {1, 2, 3, 4, 6, 8, 16, 32, 64}
    assert widths.index(64) < widths.index(32)


def test_pieces_become_shorter_from_sixteen_thousand_tokens_on() -> None:
    shapes = platform.prefill_shapes()
    held = 16_384 - 2048
    assert shapes.most_tokens(2048, 1, held) == 2048
    assert shapes.most_tokens(2048, 1, held + 16) < 2048
    lengths = [shapes.most_tokens(2048, 1, each) for each in (held, 30_000, 60_000, 120_000)]
    assert lengths == [2048, 1079, 554, 278]


@pytest.mark.parametrize("kind", ["slots", "batches", "alone"])
def test_a_long_prompt_is_computed_in_shorter_pieces(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """macOS ends what keeps its GPU from drawing for seconds."""
    scores = 300 * 300
    shapes = platform.prefill_shapes()._replace(scores=scores)
    monkeypatch.setattr(platform, "prefill_shapes", lambda: shapes)
    inner, calls = tiny_llama(), []

    class Noted:
        layers = inner.layers

        def __call__(self, tokens: mx.array, cache: Any = None) -> Any:
            calls.append(tokens.shape[1])
            return inner(tokens, cache=cache)

    if kind == "slots":
        scheduler = new_scheduler(Noted(), max_num_seqs=2)
        assert isinstance(scheduler._runner, SlotRunner)
    else:
        bounds = platform.resolve(SchedulerConfig(max_num_seqs=1))
        new_runner: Any = UpstreamRunner if kind == "batches" else text_runner
        scheduler = Scheduler(new_runner(Noted(), vocab_size=VOCAB, bounds=bounds), set())
    calls.clear()
    prompt = random.Random(1).choices(range(VOCAB), k=900)
    tokens = run(scheduler, [sequence("long", prompt, 4)])

    pieces = [length for length in calls if length > 1]
    assert sum(pieces) >= 899
    for n, held in zip(pieces, accumulate(pieces, initial=0), strict=False):
        assert n == 128 or n * (held + n) <= scores
    assert kind != "slots" or pieces[0] > 2 * 128 > pieces[2]
    assert tokens == [sequential(inner, prompt, 4)]


def with_experts(experts: int, chosen: int) -> Any:
    config = {**CONFIG, "model_type": "qwen3_moe", "num_experts": experts}
    config |= {"num_experts_per_tok": chosen, "moe_intermediate_size": 8, "decoder_sparse_step": 1}
    config |= {"mlp_only_layers": [], "head_dim": 8, "rope_theta": 1e4, "norm_topk_prob": True}
    config |= {"tie_word_embeddings": True, "max_position_embeddings": 512}
    return qwen3_moe.Model(qwen3_moe.ModelArgs.from_dict(config))


@pytest.mark.parametrize(
    ("experts", "chosen", "rows"), [(8, 2, 64), (64, 2, 128), (60, 2, 120), (512, 2, 256)]
)
def test_experts_get_rows_enough_to_share_their_weights(
    experts: int, chosen: int, rows: int
) -> None:
    model = with_experts(experts, chosen)
    assert platform.resolve(SchedulerConfig(), model).max_num_seqs == rows
    nn.quantize(model, group_size=32, class_predicate=lambda name, _: "switch_mlp.up" in name)
    assert platform.resolve(SchedulerConfig(), model).max_num_seqs == rows
    assert platform.resolve(SchedulerConfig(max_num_seqs=7), model).max_num_seqs == 7
    assert platform.resolve(SchedulerConfig(), tiny_llama()).max_num_seqs == 64


def test_a_worker_learns_how_many_rows_suit_the_model(
    monkeypatch: pytest.MonkeyPatch, text_folder: str
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(platform, "rows_for_experts", lambda _: 48)
    core = EngineCore(text_folder, load_model)
    assert core.max_num_seqs < 48
    core.start()
    assert core.max_num_seqs == 48
    core.stop()

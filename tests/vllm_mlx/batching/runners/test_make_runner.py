"""Which models slots can hold: decided by the caches they make, with one model of each kind."""

from __future__ import annotations

import importlib
import logging
import re

import mlx.core as mx
import pytest
from mlx_lm.models.cache import QuantizedKVCache

from tests.helpers.architectures import VOCAB as ARCHITECTURES_VOCAB
from tests.helpers.decoding import (
    CONFIG,
    VOCAB,
    new_scheduler,
    randomize,
    run,
    sequence,
    sequential,
    step,
    tiny_llama,
)
from tests.helpers.text_folders import new_model
from vllm_mlx.batching.runners.one_by_one import OneByOneRunner, text_runner
from vllm_mlx.batching.runners.upstream import UpstreamRunner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.errors import NonFiniteLogitsError

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9]]
QWEN = {
    **CONFIG,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def build(kind: str, **config):
    module = importlib.import_module(f"mlx_lm.models.{kind}")
    config = {**config, "model_type": kind}
    return randomize(module.Model(module.ModelArgs.from_dict(config)))


class QuantizedCaches:
    """A llama that keeps its keys and values in 8 bits."""

    def __init__(self):
        self._model = tiny_llama(hidden_size=256)  # quantized in groups of 32 of 64
        self.layers = self._model.layers

    def make_cache(self):
        return [QuantizedKVCache(group_size=32, bits=8) for _ in self.layers]

    def __call__(self, tokens, cache=None):
        return self._model(tokens, cache=cache)


PLAIN = {
    "llama": tiny_llama,
    "qwen2": lambda: build("qwen2", **QWEN),
    "qwen3": lambda: build("qwen3", **QWEN, head_dim=16),
    "gemma": lambda: build("gemma", **CONFIG, head_dim=8),
    "phi3": lambda: build("phi3", **CONFIG),
    "stablelm": lambda: build(
        "stablelm",
        **CONFIG,
        rope_theta=10_000.0,
        use_qkv_bias=False,
        partial_rotary_factor=0.5,
        layer_norm_eps=1e-5,
    ),
}
MEMORIES = {
    "sliding window": (
        lambda: tiny_llama(layer_types=["full_attention", "sliding_attention"], sliding_window=4),
        "1 x keys and values, 1 x a window of 4 tokens",
    ),
    "state space": (
        lambda: build(
            "mamba",
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            state_size=8,
            num_hidden_layers=2,
            conv_kernel=4,
            use_bias=False,
            use_conv_bias=True,
            time_step_rank=4,
        ),
        "2 x a state",
    ),
}


def foreign(kind):
    """A model whose caches only mlx-lm knows: they are of classes with names of their own."""
    model = MEMORIES[kind][0]()
    make = model.make_cache

    def make_cache():
        caches = make()
        for each in caches:
            each.__class__ = type("ForeignCache", (type(each),), {})
        return caches

    model.make_cache = make_cache
    return model


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_caches_go_into_slots(kind):
    try:
        model = PLAIN[kind]()
    except TypeError as error:
        pytest.fail(f"{kind}: {error}")
    scheduler = new_scheduler(model, max_num_seqs=2)
    assert isinstance(scheduler._runner, SlotRunner)
    tokens = run(scheduler, [sequence(str(i), each, 9) for i, each in enumerate(PROMPTS)])
    assert tokens == [sequential(model, each, 9) for each in PROMPTS]


@pytest.mark.parametrize("kind", MEMORIES)
def test_windows_and_states_go_into_slots(kind):
    make, layout = MEMORIES[kind]
    model = make()
    scheduler = new_scheduler(model, max_num_seqs=2)
    assert isinstance(scheduler._runner, SlotRunner)
    assert str(scheduler._runner._layout) == layout
    tokens = run(scheduler, [sequence(str(i), each, 9) for i, each in enumerate(PROMPTS)])
    assert tokens == [sequential(model, each, 9) for each in PROMPTS]


@pytest.mark.parametrize("most", [2, 5, 50])
def test_padding_that_is_read_as_prompt_is_found_however_few_tokens_are_computed_at_once(most):
    model = new_model("mamba")
    rows = [[7], [7, 9]]  # the first has no prompt but its last token
    scheduler = new_scheduler(
        model, vocab_size=ARCHITECTURES_VOCAB, max_num_seqs=2, max_num_batched_tokens=most
    )
    tokens = run(scheduler, [sequence(str(at), row, 5) for at, row in enumerate(rows)])
    assert tokens == [sequential(model, row, 5) for row in rows]


@pytest.mark.parametrize("kind", MEMORIES)
def test_caches_that_slots_do_not_know_fall_back(kind, caplog):
    model = foreign(kind)
    with caplog.at_level(logging.INFO):
        scheduler = new_scheduler(model, max_num_seqs=2)
    assert isinstance(scheduler._runner, UpstreamRunner)
    assert "no form for its ForeignCache" in caplog.text
    tokens = run(scheduler, [sequence(str(i), each, 9) for i, each in enumerate(PROMPTS)])
    assert tokens == [sequential(model, each, 9) for each in PROMPTS]


def test_quantized_caches_run_one_by_one():
    model = QuantizedCaches()
    scheduler = new_scheduler(model, max_num_seqs=4)
    assert isinstance(scheduler._runner, OneByOneRunner)
    tokens = run(scheduler, [sequence(str(i), each, 9) for i, each in enumerate(PROMPTS)])
    assert tokens == [sequential(model, each, 9) for each in PROMPTS]


def test_the_fallback_fails_a_row_whose_logits_are_not_finite():
    model = foreign("sliding window")

    class NaNAfterSeven:
        layers, make_cache = model.layers, staticmethod(model.make_cache)

        def __call__(self, tokens, cache=None):
            return mx.where((tokens == 7)[:, :, None], mx.nan, model(tokens, cache=cache))

    scheduler = new_scheduler(NaNAfterSeven(), max_num_seqs=2)
    rows = [sequence("bad", [3, 7], 4), sequence("good", PROMPTS[0], 4)]
    for each in rows:
        scheduler.add(each)
    while scheduler.has_unfinished:
        step(scheduler)
    assert isinstance(rows[0].future.exception(), NonFiniteLogitsError)
    assert rows[1].output_tokens == sequential(model, PROMPTS[0], 4)


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_row_of_the_fallback_ends_at_an_end_token_and_the_others_go_on(kind):
    model = foreign(kind)
    alone = [sequential(model, each, 9) for each in PROMPTS]
    end = next(token for token in alone[0][2:] if token not in alone[1] + alone[2])
    scheduler = Scheduler(new_scheduler(model, max_num_seqs=3)._runner, {end})
    tokens = run(scheduler, [sequence(str(i), each, 9) for i, each in enumerate(PROMPTS)])
    assert tokens == [alone[0][: alone[0].index(end) + 1], *alone[1:]]


def test_the_fallback_computes_no_more_tokens_than_it_may():
    model, most = foreign("sliding window"), []

    class Counting:
        layers, make_cache = model.layers, staticmethod(model.make_cache)

        def __call__(self, tokens, cache=None):
            most.append(tokens.size)
            return model(tokens, cache=cache)

    scheduler = new_scheduler(Counting(), max_num_seqs=4, max_num_batched_tokens=2)
    most.clear()
    run(scheduler, [sequence(str(i), [1, 2, 3, 4, 5, 6], 1) for i in range(4)])
    assert max(most) <= 2


def test_the_fallback_reports_logprobs():
    row = sequence("row", PROMPTS[0], 4, logprobs=2)
    run(new_scheduler(foreign("sliding window"), max_num_seqs=2), [row])
    entries = row.future.result().logprobs
    assert entries is not None
    assert [entry.token_id for entry in entries] == row.output_tokens
    assert all(entry.top[0].token_id == entry.token_id for entry in entries)  # greedy


@pytest.mark.parametrize("kind", MEMORIES)
def test_the_fallback_counts_prefill_and_decoding_apart(kind):
    scheduler = new_scheduler(foreign(kind), max_num_seqs=2)
    run(scheduler, [sequence(str(i), each, 9) for i, each in enumerate(PROMPTS)])
    stats = scheduler.stats
    assert stats.prompt_tokens == sum(map(len, PROMPTS))
    assert stats.completion_tokens == 9 * len(PROMPTS)
    assert stats.prefill_seconds > 0
    assert stats.decode_seconds > 0


class Reading:
    """Reads the arrays of its caches itself, which those of slots don't have."""

    def __init__(self):
        self._model = tiny_llama()
        self.layers = self._model.layers

    def __call__(self, tokens, cache=None):
        logits = self._model(tokens, cache=cache)
        return logits + (0.0 * cache[0].keys.sum() if cache else 0.0)


class Offsets(Reading):
    """Computes with a cache's offset in a way that slots don't bear out."""

    def __call__(self, tokens, cache=None):
        logits = self._model(tokens, cache=cache)
        shift = cache[0].offset if cache else 0
        return logits + (10.0 * mx.arange(VOCAB) if isinstance(shift, mx.array) else 0.0)


class LateOffsets(Reading):
    """Asks a cache where tokens stand when it holds them, as layers with keys of others may.

    Its own caches have counted them by then, so that the answer depends on how a prompt is cut.
    """

    def __call__(self, tokens, cache=None):
        logits = self._model(tokens, cache=cache)
        offset = mx.array(cache[0].offset if cache else 0).reshape(-1, 1)
        places = offset + mx.arange(tokens.shape[1])
        return logits + 9.0 * mx.sin(places[..., None] * (1.0 + mx.arange(VOCAB)))


def test_a_model_that_slots_refuse_falls_back():
    scheduler = new_scheduler(Reading(), max_num_seqs=2)
    assert isinstance(scheduler._runner, UpstreamRunner)
    assert scheduler.stats.way == (
        "in mlx-lm's batches (not in slots: it reads the arrays of its caches itself, by keys)"
    )


def test_a_model_whose_own_caches_answer_by_how_a_prompt_is_cut_runs_in_slots():
    model = LateOffsets()
    scheduler = new_scheduler(model, max_num_seqs=2, max_num_batched_tokens=4)
    assert isinstance(scheduler._runner, SlotRunner)
    assert scheduler.stats.way == (
        "in slots, 2 x keys and values; with caches of its own it answers by how a prompt is cut"
    )
    expected = [list(each) for each in PROMPTS]
    for row in expected * 6:
        row.append(int(mx.argmax(model(mx.array([row]))[0, -1])))
    tokens = run(scheduler, [sequence(str(i), each, 6) for i, each in enumerate(PROMPTS)])
    assert tokens == [row[-6:] for row in expected]
    assert sequential(model, PROMPTS[0], 6) != tokens[0]


def test_a_model_that_computes_something_else_in_every_batch_runs_one_by_one(caplog):
    assert isinstance(new_scheduler(Offsets(), max_num_seqs=2)._runner, OneByOneRunner)
    (record,) = caplog.records
    differ = r"log-probabilities differ by [\d.e+]+ from those of a row alone"
    assert re.fullmatch(
        rf"Offsets runs one row at a time \(not in slots, 2 x keys and values: {differ}; "
        rf"not in mlx-lm's batches: {differ}\)",
        record.getMessage(),
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (tiny_llama, "llama runs in slots, 2 x keys and values"),
        (
            lambda: foreign("sliding window"),
            "llama runs in mlx-lm's batches "
            "(not in slots: slots have no form for its ForeignCache)",
        ),
        (
            QuantizedCaches,
            "QuantizedCaches runs one row at a time (not in slots: slots have no form for its "
            "QuantizedKVCache; not in mlx-lm's batches: ValueError: "
            "<class 'mlx_lm.models.cache.QuantizedKVCache'> does not yet support batching with "
            "history)",
        ),
    ],
    ids=["slots", "batches", "alone"],
)
def test_one_line_says_how_a_model_runs_and_the_counts_say_it_too(make, said, caplog):
    with caplog.at_level(logging.INFO):
        scheduler = new_scheduler(make(), max_num_seqs=2)
    (record,) = [each for each in caplog.records if " runs " in each.getMessage()]
    assert record.getMessage() == said
    assert said.endswith(f"runs {scheduler.stats.way}")


def one_by_one():
    scheduler = new_scheduler(QuantizedCaches(), max_num_seqs=8)
    assert isinstance(scheduler._runner, OneByOneRunner)
    return scheduler


def test_one_by_one_counts_and_frees():
    scheduler = one_by_one()
    run(scheduler, [sequence(str(i), each, 9) for i, each in enumerate(PROMPTS)])
    stats = scheduler.stats
    assert stats.prompt_tokens == sum(map(len, PROMPTS))
    assert stats.completion_tokens == stats.steps == 9 * len(PROMPTS)
    assert stats.prefill_seconds > 0
    assert stats.decode_seconds > 0
    assert (stats.slots, stats.kv_cache_bytes) == (0, 0)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0, "seed": 5, "top_k": 8},
        {"repetition_penalty": 1.8},
        {"logprobs": 2},
        {"logprobs": 2, "frequency_penalty": 2.0, "logit_bias": {5: 9.0}, "min_tokens": 4},
    ],
)
def test_one_by_one_samples_as_batches_do(params):
    batched, alone = foreign("sliding window"), OneByOne()
    rows = [sequence(name, PROMPTS[0], 12, **params) for name in ("batched", "alone")]
    for model, row in zip((batched, alone), rows, strict=True):
        run(new_scheduler(model, max_num_seqs=1), [row])
    outputs = [row.future.result(0) for row in rows]
    assert rows[0].output_tokens == rows[1].output_tokens
    for mine, theirs in zip(*(output.logprobs or () for output in outputs), strict=True):
        assert mine.token_id == theirs.token_id
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)


class OneByOne:
    def __init__(self):
        self._model = foreign("sliding window")

    def new_runner(self, **given):
        return text_runner(self._model, **given)

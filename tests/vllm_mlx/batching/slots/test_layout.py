"""What the caches of a model say that its layers remember, and how many bytes that takes."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx_lm.models import longcat_flash_ngram
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from tests.helpers.architectures import KINDS, VOCAB, config_of
from tests.helpers.decoding import new_scheduler, randomize, sequence, step
from tests.helpers.text_folders import new_model
from vllm_mlx.batching.slots.layout import (
    Footprint,
    KeysAndValues,
    Layout,
    States,
    UnsuitableCacheError,
)


def test_each_cache_says_what_it_remembers():
    caches = [KVCache(), RotatingKVCache(8), ArraysCache(2), CacheList(ArraysCache(1), KVCache())]
    layout = Layout.of(caches)
    assert layout.kinds == (
        KeysAndValues(),
        KeysAndValues(8),
        States(2),
        States(1),
        KeysAndValues(),
    )
    assert layout.nested("abcde") == ["a", "b", "c", ("d", "e")]
    assert layout.windows == {None, 8}
    assert layout.has_states
    assert str(layout) == "2 x keys and values, 1 x a window of 8 tokens, 2 x a state"


@pytest.mark.parametrize(
    "cache", [ChunkedKVCache(8), QuantizedKVCache(), RotatingKVCache(8, keep=4)]
)
def test_a_cache_without_a_form_is_named(cache):
    with pytest.raises(UnsuitableCacheError, match=f"no form for its {type(cache).__name__}"):
        Layout.of([KVCache(), cache])


def test_a_state_that_grows_with_the_tokens_has_no_form():
    """The last tokens of an n-gram: as many as there are, up to n - 1."""
    config = {
        **config_of("longcat_flash"),
        "ngram_vocab_size_ratio": 2,
        "emb_neighbor_num": 3,
        "emb_split_num": 2,
    }
    args = longcat_flash_ngram.ModelArgs.from_dict(config)
    model = randomize(longcat_flash_ngram.Model(args))
    with pytest.raises(UnsuitableCacheError, match="grows with the tokens"):
        Layout.of(model.make_cache()).footprint(model)


def test_a_footprint_counts_windows_up_to_their_size_and_states_once():
    footprint = Footprint(per_token=10, windows=((16, 3), (40, 1)), state=7)
    assert footprint.slot(256) == 256 * 10 + 16 * 3 + 48 * 1 + 7  # columns in steps of 16
    assert footprint.prompt(100) == 100 * (10 + 3 + 1) + 7
    assert footprint.prefix(64, 96) == 32 * 10 + 16 * 3 + 32 * 1 + 7


@pytest.mark.parametrize("kind", KINDS)
def test_slots_hold_the_bytes_of_the_footprint(kind):
    model = new_model(KINDS[kind])
    footprint = Layout.of(make_prompt_cache(model)).footprint(model)
    scheduler = new_scheduler(model, vocab_size=VOCAB, max_num_seqs=8)
    runner, widths = scheduler._runner, set()
    for i in range(8):
        scheduler.add(sequence(str(i), [1 + i, 2, 3] * (1 + 13 * i), 4 + 5 * i))
    while scheduler.has_unfinished:
        step(scheduler)
        if runner._running:
            rings = runner._rings
            widths.add((rings.slots, rings.columns))
            held = sum(memory.nbytes for memory in runner._memories)
            assert held == rings.slots * footprint.slot(rings.columns)
    assert len(widths) > 2
    mx.synchronize()


@pytest.mark.parametrize("kind", KINDS)
def test_shared_prefixes_hold_the_bytes_of_the_footprint(kind):
    model = new_model(KINDS[kind])
    scheduler = new_scheduler(model, vocab_size=VOCAB, max_num_seqs=4)
    system, document = [5, 6, 7, 8] * 12, [9, 3] * 24
    for i in range(6):
        tokens = system + (document if i % 2 else []) + [20 + i] * 3
        scheduler.add(sequence(str(i), tokens, 2))
    while scheduler.has_unfinished:
        step(scheduler)
    prefixes = scheduler._runner._prefixes
    assert prefixes.nbytes == prefixes.reserved_bytes > 0
    assert scheduler.stats.cached_tokens >= 4 * len(system)

"""Which prefixes are shared, and how long they are kept."""

from __future__ import annotations

import random

from tests.helpers.decoding import sequence
from vllm_mlx.batching.slots.layout import Footprint
from vllm_mlx.batching.slots.prefill import PrefillBatch, group
from vllm_mlx.batching.slots.prefill_row import PrefillRow
from vllm_mlx.batching.slots.prefix import Prefix, PrefixCache
from vllm_mlx.platform import PrefillShapes

BYTE = Footprint(per_token=1)


def tokens(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(1000), k=count)


def waiting(cache: PrefixCache, *prompts: list[int]):
    sequences = [sequence(str(i), prompt, 4) for i, prompt in enumerate(prompts)]
    for each in sequences:
        cache.announce(each)
    return sequences


def test_prompts_with_nothing_in_common_share_nothing():
    cache = PrefixCache(10_000, BYTE)
    for each in waiting(cache, tokens(1, 80), tokens(2, 80), [5]):
        assert cache.longest(each) == (None, [])
        assert cache.shared_with(each) == 0


def test_the_prefix_ends_where_the_prompts_part():
    cache = PrefixCache(10_000, BYTE)
    system = tokens(1, 64)
    first, second = waiting(cache, system + tokens(2, 30), system + tokens(3, 30))
    prefix, new = cache.longest(first)
    assert prefix is not None
    assert prefix.tokens == system
    assert new == [prefix]
    again, nothing = cache.longest(second)
    assert again is prefix
    assert nothing == []
    assert cache.shared_with(first) == cache.shared_with(second) != 0


def test_a_short_common_beginning_is_not_worth_it():
    cache = PrefixCache(10_000, BYTE)
    system = tokens(1, 16)
    first, _ = waiting(cache, system + tokens(2, 30), system + tokens(3, 30))
    assert cache.longest(first) == (None, [])


def test_what_is_withdrawn_is_not_counted():
    cache = PrefixCache(10_000, BYTE)
    system = tokens(1, 64)
    first, second = waiting(cache, system + tokens(2, 30), system + tokens(3, 30))
    cache.withdraw(second)
    cache.withdraw(second)  # twice does no harm
    assert cache.longest(first) == (None, [])


def test_a_hash_is_not_believed():
    cache = PrefixCache(10_000, BYTE)
    system = tokens(1, 64)
    first, second = waiting(cache, [*system, 1], [*system, 2])
    prefix, _ = cache.longest(first)
    assert prefix is not None
    prefix.tokens[3] += 1  # as if another prompt had the same hash
    other, new = cache.longest(second)
    assert other is not prefix
    assert new == [other]


def test_the_least_recently_used_goes_first_and_what_is_needed_stays():
    cache = PrefixCache(150, BYTE)
    systems = [tokens(seed, 64) for seed in range(4)]
    prompts = [[*system, end] for system in systems for end in (1, 2)]
    sequences = waiting(cache, *prompts)
    one, _ = cache.longest(sequences[0])
    two, _ = cache.longest(sequences[2])
    assert one is not None
    assert two is not None
    assert cache.reserved_bytes == 128
    one.users += 1
    three, _ = cache.longest(sequences[4])  # two goes, though one is older
    assert three is not None
    assert cache.reserved_bytes == 128
    assert cache.longest(sequences[1])[0] is one
    three.users += 1
    assert cache.longest(sequences[6]) == (None, [])  # no room: not shared


def test_parents_of_what_nobody_uses_make_room():
    cache = PrefixCache(1000, BYTE)
    beginning = tokens(1, 400)
    middles = [beginning + tokens(2 + i, 160) for i in range(2)]
    rows = [middle + tokens(10 + i, 5) for middle in middles for i in range(3)]
    for each in waiting(cache, *rows):
        for part in cache.longest(each)[1]:
            part.saved = []
        cache.withdraw(each)
    assert cache.reserved_bytes == 400 + 2 * 160
    first, *_ = waiting(cache, *(tokens(50, 800) + tokens(60 + i, 5) for i in range(3)))
    prefix, new = cache.longest(first)
    assert prefix is not None
    assert prefix.end == 800
    assert new == [prefix]
    assert cache.reserved_bytes <= 1000


def row(length: int) -> PrefillRow:
    return PrefillRow([1] * length, None, sequence("x", [1], 1))


def batches_of(rows: list[PrefillRow], shapes: PrefillShapes, most: int, held: int = 10**9):
    return group(rows, shapes, most, lambda count, length: count * length <= held)


def lengths_of(batches: list[PrefillBatch]) -> list[list[int]]:
    return sorted(sorted(len(each.tokens) for each in batch.rows) for batch in batches)


def test_rows_are_batched_with_rows_of_like_length():
    rows = [row(length) for length in (10, 100, 98, 11, 9, 102)]
    batches = batches_of(rows, PrefillShapes(8, 1), 1000)
    assert lengths_of(batches) == [[9, 10, 11], [98, 100, 102]]
    assert [batch.length for batch in batches] == [102, 11]


def test_rows_that_must_not_be_padded_are_batched_with_rows_of_equal_length():
    rows = [row(length) for length in (10, 100, 10, 11, 100, 10)]
    batches = group(rows, PrefillShapes(1000, 1), 1000, lambda *_: True, pads=False)
    assert lengths_of(batches) == [[10, 10, 10], [11], [100, 100]]


def test_pieces_become_shorter_as_a_prompt_becomes_longer():
    shapes = PrefillShapes(8, 1, scores=2048 * 16384)
    pieces = [shapes.most_tokens(2048, 1, held) for held in (0, 14_000, 30_000, 120_000, 10**6)]
    assert pieces == [2048, 2048, 1079, 278, 128]
    assert 1079 * (30_000 + 1079) <= 2048 * 16384 < 1081 * (30_000 + 1081)
    # Several rows share what may be computed.
    assert shapes.most_tokens(2048, 4, 30_000) == 4 * 277
    assert shapes.most_tokens(2048, 4, 10**6) == 4 * 128
    assert shapes.most_tokens(16, 1, 10**6) == 16  # what the caller allows
    assert PrefillShapes(8, 1).most_tokens(2048, 1, 10**6) == 2048


def test_dear_batches_are_fewer_and_bounded():
    rows = [row(length) for length in (10, 100, 98, 11, 9, 102)]
    (batch,) = batches_of(rows, PrefillShapes(1000, 1), 1000)
    assert len(batch.rows) == 6
    batches = batches_of(rows, PrefillShapes(1000, 1), 310)
    assert all(batch.length * len(batch.rows) <= 310 for batch in batches)
    assert sum(len(batch.rows) for batch in batches) == 6


def test_lengths_are_padded_to_few_shapes():
    rows = [row(length) for length in range(40, 60)]
    batches = batches_of(rows, PrefillShapes(500, 32), 10_000)
    assert {batch.length for batch in batches} == {64}


def test_a_row_longer_than_the_bound_runs_alone():
    batches = batches_of([row(50), row(900)], PrefillShapes(8, 1), 100, 100)
    assert sorted(len(batch.rows) for batch in batches) == [1, 1]


def test_rows_behind_a_prefix_are_bounded_by_what_they_compute_and_hold():
    shared = Prefix(1, [1] * 1000, None)
    rows = [PrefillRow([1] * 30, shared, sequence("x", [1], 1)) for _ in range(20)]
    assert [len(batch.rows) for batch in batches_of(rows, PrefillShapes(8, 1), 300)] == [10, 10]
    batches = batches_of(rows, PrefillShapes(8, 1), 300, 5000)
    assert {batch.held_bytes(BYTE) for batch in batches} == {4 * 1030}

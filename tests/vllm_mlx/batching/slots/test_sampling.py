"""`BatchSampler` against mlx-lm's own samplers, as distributions, and its promises about seeds."""

from __future__ import annotations

import math
import random
from collections import Counter

import mlx.core as mx
import pytest
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p, make_logits_processors

from tests.helpers.decoding import sequence
from vllm_mlx import platform
from vllm_mlx.batching.slots import draws
from vllm_mlx.batching.slots.filters import inverse_cdf
from vllm_mlx.batching.slots.sampling import BatchSampler

V = 700
FILTERS = [
    {"top_p": 1.0},
    {"top_p": 0.9},
    {"top_p": 0.3},
    {"top_p": 1.0, "top_k": 5},
    {"top_p": 1.0, "min_p": 0.1},
    {"top_p": 0.8, "top_k": 20, "min_p": 0.02},
    {"top_p": 1.0, "top_k": 1},
]


def logits_of(seed: int, rows: int = 1, spread: float = 3.0) -> mx.array:
    return mx.random.normal((rows, V), key=mx.random.key(seed)) * spread


def allowed(logits: mx.array, settings: dict[str, float]) -> set[int]:
    """What mlx-lm's filters leave, in mlx-lm's order."""
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    if settings.get("top_p", 1.0) < 1.0:
        logprobs = apply_top_p(logprobs, settings["top_p"])
    if settings.get("min_p"):
        logprobs = apply_min_p(logprobs, settings["min_p"])
    if settings.get("top_k"):
        logprobs = apply_top_k(logprobs, int(settings["top_k"]))
    return {i for i, value in enumerate(logprobs[0].tolist()) if value > -math.inf}


def sampler_of(*rows) -> BatchSampler:
    sampler = BatchSampler(V)
    for slot, row in enumerate(rows):
        sampler.join(slot, len(rows), row)
    return sampler


@pytest.mark.parametrize("few", [None, 32])
@pytest.mark.parametrize("settings", FILTERS)
def test_only_what_mlx_lm_allows_and_all_of_it(settings, few, monkeypatch):
    monkeypatch.setattr(platform, "sampling_candidates", lambda: few)
    logits = logits_of(1)
    rows = [sequence(str(i), [1], 9, temperature=2.0, seed=i, **settings) for i in range(64)]
    sampler = sampler_of(*rows)
    drawn: Counter[int] = Counter()
    for _ in range(60):
        drawn.update(sampler(mx.repeat(logits, 64, axis=0)).tokens.tolist())
    tokens = allowed(logits, settings)
    assert set(drawn) <= tokens
    if len(tokens) < 30:
        assert set(drawn) == tokens


def test_flat_and_peaked_rows_draw_side_by_side_what_they_draw_alone(monkeypatch):
    monkeypatch.setattr(platform, "sampling_candidates", lambda: 16)
    mx.random.seed(3)
    logits = mx.random.normal((12, V)) * mx.array([[0.1], [5.0]] * 6)
    with monkeypatch.context() as patch:
        never = platform.operations()._replace(argsort=None)
        patch.setattr(platform, "operations", lambda: never)
        flat = sampler_of(sequence("flat", [1], 9, temperature=1.0, seed=0, top_p=0.9))
        with pytest.raises(TypeError):
            flat(logits[:1])  # its candidates are not among the first few
    rows = [sequence(str(i), [1], 9, temperature=1.0, seed=i, top_p=0.9) for i in range(12)]
    alone = [sampler_of(row)(logits[i : i + 1]).tokens.item() for i, row in enumerate(rows)]
    assert sampler_of(*rows)(logits).tokens.tolist() == alone


def test_frequencies_are_the_probabilities():
    logits = mx.array([[0.0, 1.0, 2.0, 3.0] + [-50.0] * (V - 4)])
    rows = [sequence(str(i), [1], 9, temperature=0.8, top_p=1.0, seed=i) for i in range(100)]
    sampler = sampler_of(*rows)
    drawn: Counter[int] = Counter()
    for _ in range(100):
        drawn.update(sampler(mx.repeat(logits, 100, axis=0)).tokens.tolist())
    weights = [math.exp(x / 0.8) for x in (0, 1, 2, 3)]
    for token, weight in enumerate(weights):
        share = weight / sum(weights)
        error = 4 * math.sqrt(share * (1 - share) / 10_000)
        assert drawn[token] / 10_000 == pytest.approx(share, abs=error)


def test_one_row_of_each_kind_in_one_call():
    logits = logits_of(3, rows=5)
    rows = [
        sequence("greedy", [1], 9),
        sequence("filtered", [1], 9, temperature=1.0, top_p=0.9, seed=1),
        sequence("plain", [1], 9, temperature=1.0, top_p=1.0, seed=2),
        sequence("penalized", [1, 2, 3], 9, repetition_penalty=1.5),
    ]
    sampler = BatchSampler(V)
    for slot, row in enumerate(rows):
        sampler.join(slot, 5, row)
    tokens = sampler(logits).tokens.tolist()
    assert tokens[0] == int(mx.argmax(logits[0]))
    assert tokens[4] == int(mx.argmax(logits[4]))  # a free slot; nobody reads it
    assert tokens[1] in allowed(logits[1:2], {"top_p": 0.9})


def test_a_seeded_row_draws_the_same_beside_anybody():
    def drawn(*others):
        row = sequence("row", [1], 9, temperature=1.0, top_p=0.95, seed=11)
        sampler = sampler_of(*others, row)
        slot = len(others)
        return [
            sampler(mx.repeat(logits_of(step), slot + 1, axis=0)).tokens.tolist()[slot]
            for step in range(20)
        ]

    alone = drawn()
    assert drawn(sequence("greedy", [1], 9)) == alone
    hot = [sequence(str(i), [1], 9, temperature=2.0, top_k=3, seed=i) for i in range(6)]
    assert drawn(*hot) == alone


def test_the_penalty_is_mlx_lms():
    prompt = [random.Random(1).randrange(V) for _ in range(30)]
    row = sequence("row", prompt, 30, repetition_penalty=1.7)
    sampler = sampler_of(row, sequence("other", [1], 9))
    (processor,) = make_logits_processors(repetition_penalty=1.7)
    context = list(prompt)
    for step in range(12):
        logits = logits_of(step // 4, rows=2)
        want = int(mx.argmax(processor(mx.array(context), logits[:1])))
        tokens = sampler(logits).tokens.tolist()
        assert tokens[0] == want
        assert tokens[1] == int(mx.argmax(logits[1]))
        context.append(want)


def test_penalties_are_those_that_openai_and_vllm_define():
    """Over generated tokens alone, once for a token and once for each time; -1 is a reward."""
    kinds = [{"presence_penalty": 1.5}, {"frequency_penalty": 0.7}, {"frequency_penalty": -1.0}]
    kinds += [{"presence_penalty": 0.4, "frequency_penalty": 1.1}, {}]
    rows = [sequence(str(i), list(range(V)), 99, **kind) for i, kind in enumerate(kinds)]
    sampler, logits = sampler_of(*rows), mx.repeat(logits_of(1, spread=1.0), len(kinds), axis=0)
    counts = [Counter() for _ in kinds]
    for _ in range(40):
        tokens = sampler(logits).tokens.tolist()
        for at, kind in enumerate(kinds):
            shaped = logits[at].tolist()
            for token, count in counts[at].items():
                shaped[token] -= kind.get("presence_penalty", 0.0)
                shaped[token] -= kind.get("frequency_penalty", 0.0) * count
            assert tokens[at] == shaped.index(max(shaped))
            counts[at][tokens[at]] += 1
    assert [len(count) for count in counts[2:]] == [1, len(counts[3]), 1]
    assert len(counts[3]) > 5


def test_a_slot_counts_anew_for_each_row_and_moves_with_it():
    logits, params = logits_of(1), {"frequency_penalty": 2.0}
    sampler = sampler_of(*(sequence(name, [1], 9, **params) for name in "abc"))
    several = mx.repeat(logits, 3, axis=0)
    first = [sampler(several).tokens.tolist() for _ in range(4)]
    assert first[0] == [first[0][0]] * 3
    sampler.leave(0)
    sampler.join(0, 3, sequence("d", [1], 9, **params))
    tokens = sampler(several).tokens.tolist()
    assert tokens[0] == first[0][0]
    assert tokens[2] not in [row[2] for row in first[:2]]
    sampler.leave(0)
    sampler.leave(1)
    sampler.resize({2: 0}, 1)
    alone = sampler_of(sequence("alone", [1], 9, **params))
    expected = [alone(logits).tokens.item() for _ in range(6)][5]
    assert sampler(logits).tokens.item() == expected


def test_biases_ban_and_force_and_do_so_in_seeded_rows():
    logits = logits_of(2, rows=4)
    best = mx.argmax(logits, axis=-1).tolist()
    rows = [
        sequence("banned", [1], 9, logit_bias={best[0]: -100}),
        sequence("forced", [1], 9, logit_bias={7: 100}),
        sequence("free", [1], 9),
        sequence("drawn", [1], 9, temperature=2.0, top_p=1.0, seed=1, logit_bias={9: 100}),
    ]
    tokens = sampler_of(*rows)(logits).tokens.tolist()
    assert tokens[0] == int(mx.argsort(-logits[0])[1])
    assert tokens[1:] == [7, best[2], 9]


def test_end_tokens_wait_for_min_tokens():
    logits = mx.repeat(logits_of(2), 3, axis=0)
    first, second = mx.argsort(-logits[0])[:2].tolist()
    rows = [sequence(name, [1], 9, min_tokens=n) for name, n in (("a", 3), ("b", 1), ("c", 0))]
    rows[0].end_at([first, V + 5])
    rows[1].end_at([first])
    sampler = sampler_of(*rows)
    drawn = [sampler(logits).tokens.tolist() for _ in range(5)]
    assert [tokens[0] for tokens in drawn] == [second] * 3 + [first] * 2
    assert [tokens[1] for tokens in drawn] == [second] + [first] * 4
    assert {tokens[2] for tokens in drawn} == {first}


def test_neighbours_that_are_shaped_change_nothing_of_a_row():
    """Neither a free row nor one with the repetition penalty, which rounds in the model's type."""
    logits = logits_of(5, rows=3).astype(mx.bfloat16)
    shaped = {"presence_penalty": 1.0, "logit_bias": {3: 5.0}, "min_tokens": 4}

    def drawn(*neighbour):
        rows = [
            sequence("free", [1], 9, temperature=1.0, seed=3),
            sequence("repeats", list(range(400, 420)), 9, repetition_penalty=1.1),
        ]
        sampler = sampler_of(*rows, *neighbour)
        steps = [sampler(logits[: 2 + len(neighbour)] + step / 8).tokens for step in range(6)]
        return [tokens.tolist()[:2] for tokens in steps]

    assert drawn(sequence("shaped", [1], 9, **shaped)) == drawn()


def test_free_batches_hold_and_do_nothing_for_others():
    sampler, logits = sampler_of(sequence("a", [1], 9)), logits_of(4)
    penalized = sequence("b", [1], 9, presence_penalty=1.0)
    sampler.join(1, 2, penalized)
    sampler(mx.repeat(logits, 2, axis=0))
    assert sampler._counts is not None
    sampler.leave(1)
    sampler(mx.repeat(logits, 2, axis=0))
    assert sampler._counts is None
    assert sampler._plan_ends is None
    assert sampler._make_bias()(logits) is logits
    assert sampler._make_penalties()(logits) is logits


def test_rows_keep_their_state_when_the_ring_is_resized():
    def drawn(resize):
        rows = [
            sequence(str(i), [1, 2], 9, temperature=1.0, seed=i, repetition_penalty=1.3)
            for i in range(4)
        ]
        sampler = sampler_of(*rows)
        tokens = [sampler(mx.repeat(logits_of(0), 4, axis=0)).tokens.tolist()[3]]
        sampler.leave(0)
        sampler.leave(1)
        slot = 3
        if resize:
            sampler.resize({3: 0}, 3)
            slot = 0
        for step in range(1, 6):
            logits = mx.repeat(logits_of(step), 3 if resize else 4, axis=0)
            tokens.append(sampler(logits).tokens.tolist()[slot])
        return tokens

    assert drawn(resize=True) == drawn(resize=False)


def test_a_number_that_rounds_to_one_chooses_a_token_that_has_weight():
    weights = mx.array([[0.25, 0.75, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    almost_one = mx.array([[1.0], [1.0]])
    assert inverse_cdf(weights, almost_one).tolist() == [1, 0]
    assert inverse_cdf(weights, mx.zeros((2, 1))).tolist() == [0, 0]


def test_logits_that_are_not_finite_are_reported():
    logits = logits_of(0, rows=3)
    logits[1] = mx.nan
    row = sequence("row", [1], 9, temperature=1.0, seed=1)
    tokens = sampler_of(sequence("a", [1], 9), sequence("b", [1], 9), row)(logits).tokens.tolist()
    assert tokens[1] == -1
    assert tokens[0] >= 0
    assert tokens[2] >= 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("params", [{"top_p": 1.0}, {}, {"top_k": 5}, {"temperature": 0.0}])
def test_a_part_that_is_not_finite_is_reported_and_what_is_masked_is_not(params, bad):
    logits = logits_of(0, rows=2)
    logits[0, 5] = bad
    logits[1, 5] = -math.inf
    rows = [sequence(name, [1], 9, **{"temperature": 1.0, "seed": 3} | params) for name in "ab"]
    tokens = sampler_of(*rows)(logits).tokens.tolist()
    assert tokens[0] == -1
    assert tokens[1] >= 0


def test_greedy_batches_neither_sort_nor_draw(monkeypatch):
    for name in ("argsort", "argpartition", "cumsum"):
        monkeypatch.setattr(mx, name, None)
    logits = logits_of(4, rows=2)
    sampler = sampler_of(sequence("a", [1], 9), sequence("b", [1], 9))
    monkeypatch.setattr(draws, "_uniforms", None)
    assert sampler(logits).tokens.tolist() == mx.argmax(logits, axis=-1).tolist()

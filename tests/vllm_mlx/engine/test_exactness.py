"""The flagship test: what comes out of a packed batch is what mlx-lm generates one by one.

300 requests on the real model, greedy: uneven prompts and limits, so that rows join and leave at
nearly every step, and a third of them with a shared beginning.
"""

from __future__ import annotations

import random

import pytest

from tests.helpers.decoding import logit_gap, new_scheduler, run, sequence, sequential
from vllm_mlx.models.loading import load_model

MODEL = "smollm2-135m"
REQUESTS = 300
LARGEST_GAP = 1e-4


@pytest.fixture(scope="module")
def plain():
    """The model as mlx-lm has it."""
    return load_model(MODEL, accelerated=False)


@pytest.fixture(scope="module")
def requests(plain):
    draw = random.Random(8)
    words = [
        "the",
        "sun",
        "a",
        "river",
        "of",
        "old",
        "stone",
        "and",
        "light",
        "falls",
        "on",
        "quiet",
        "hills",
        "where",
        "no",
        "one",
        "walks",
    ]
    system = plain.encode("You are a careful assistant who writes short and true answers. " * 4)
    wanted = []
    for i in range(REQUESTS):
        own = plain.encode(" ".join(draw.choices(words, k=draw.randint(1, 12))))
        prompt = [*system, *own] if i % 3 == 0 else own
        wanted.append((prompt, min(24, 1 + int(draw.expovariate(1 / 4)))))
    return wanted


@pytest.fixture(scope="module")
def expected(plain, requests):
    return [sequential(plain.model, *each) for each in requests]


@pytest.fixture(scope="module")
def model():
    return load_model(MODEL).model


@pytest.mark.parametrize("width", [1, 7, 16, 32])
def test_batched_output_equals_sequential_output(plain, model, requests, expected, width):
    scheduler = new_scheduler(model, vocab_size=plain.vocab_size, max_num_seqs=width)
    sequences = [sequence(str(i), *each) for i, each in enumerate(requests)]
    outputs = run(scheduler, sequences)
    differences = []
    for (prompt, _), got, want in zip(requests, outputs, expected, strict=True):
        assert len(got) == len(want)
        if got != want:
            at = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
            gap = logit_gap(plain.model, [*prompt, *want[:at]], got[at], want[at])
            differences.append((prompt, at, gap))
    assert all(gap < LARGEST_GAP for _, _, gap in differences), differences
    shared = [each for i, each in enumerate(sequences) if i % 3 == 0]
    assert sum(each.cached_tokens > 0 for each in shared) >= len(shared) - 1
    assert scheduler.stats.cached_tokens > 40 * (len(shared) - 1)


def test_seeded_rows_are_the_same_in_another_order(plain, model, requests):
    settings = [
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 50, "top_p": 1.0},
        {"temperature": 0.8, "min_p": 0.05, "repetition_penalty": 1.1},
        {"temperature": 1.2, "top_p": 1.0},
    ]

    def tokens_in(order):
        sequences = {
            i: sequence(str(i), *requests[i], seed=i, **settings[i % 4]) for i in sorted(order)
        }
        scheduler = new_scheduler(model, vocab_size=plain.vocab_size, max_num_seqs=16)
        run(scheduler, [sequences[i] for i in order])
        return [sequences[i].output_tokens for i in sorted(order)]

    order = list(range(60))
    first = tokens_in(order)
    random.Random(2).shuffle(order)
    assert tokens_in(order) == first

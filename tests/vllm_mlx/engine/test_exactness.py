"""The flagship test: what comes out of a packed batch is what mlx-lm generates one by one.

300 requests, greedy: uneven prompts and limits, so that rows join and leave at nearly every step,
and a third of them with a shared beginning. A tiny model with random weights proves the breadth of
it in seconds, and fewer rows of SmolLM2 that it holds with weights that were trained: a hundred in
`make test-all`, where what mlx-lm generates of them is kept in pytest's cache.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pytest
from mlx.utils import tree_flatten

from tests.helpers.decoding import (
    logit_gap,
    new_scheduler,
    run,
    sequence,
    sequential,
    tiny_llama,
)
from tests.helpers.sizes import sizes
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.models.accelerated import accelerate
from vllm_mlx.models.loading import load_model

REQUESTS, MANY, FEW = 300, 100, 12
LARGEST_GAP = 1e-4
# Heads as SmolLM2 has them: 64 numbers each, three of queries to one of keys.
HEADS = {"head_dim": 64, "num_attention_heads": 6, "num_key_value_heads": 2}
TINY = {**HEADS, "hidden_size": 128, "intermediate_size": 192, "vocab_size": 509}
WORDS = [
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

Request = tuple[list[int], int]
"""The tokens of a prompt, and `max_tokens`."""


@dataclass
class Case:
    """A model and what it is asked; every third prompt has a shared beginning.

    Attributes:
        plain: the model as mlx-lm has it.
        model: the same weights as the engine runs them.
    """

    plain: Any
    model: Any
    vocab_size: int
    requests: list[Request]
    _expected: list[list[int]] = field(default_factory=list)

    def expected(self, count: int) -> list[list[int]]:
        """What mlx-lm generates of the first `count` requests, each alone."""
        for each in self.requests[len(self._expected) : count]:
            self._expected.append(sequential(self.plain, *each))
        return self._expected[:count]

    def keep_expected(self, cache: pytest.Cache) -> None:
        """Take what mlx-lm generates of them from an earlier run, or keep it for a later one."""
        key = f"mlx-batch/expected/{self.digest()}"
        self._expected = cache.get(key, self._expected)
        cache.set(key, self.expected(MANY))

    def digest(self) -> str:
        """A hash of all that decides what is expected."""
        digest = hashlib.sha256(json.dumps(self.requests).encode())
        for package in ("mlx", "mlx-lm"):
            digest.update(version(package).encode())
        for name, weights in tree_flatten(self.plain.parameters()):
            digest.update(name.encode())
            digest.update(memoryview(weights))
        return digest.hexdigest()

    def scheduler(self, width: int) -> Scheduler:
        scheduler = new_scheduler(self.model, vocab_size=self.vocab_size, max_num_seqs=width)
        assert isinstance(scheduler._runner, SlotRunner), "its fallbacks would be exact as well"
        return scheduler


def draw_requests(shared: list[int], vocabulary: list[list[int]]) -> list[Request]:
    """Prompts of one to twelve words, each word some tokens."""
    draw = random.Random(8)
    requests = []
    for i in range(REQUESTS):
        words = draw.choices(vocabulary, k=draw.randint(1, 12))
        prompt = [*(shared if i % 3 == 0 else []), *(token for word in words for token in word)]
        requests.append((prompt, min(24, 1 + int(draw.expovariate(1 / 4)))))
    return requests


@pytest.fixture(scope="module")
def tiny() -> Case:
    plain, model = (tiny_llama(scale=0.15, **TINY) for _ in range(2))
    vocabulary = [[token] for token in range(TINY["vocab_size"])]
    shared = [token * 7 % len(vocabulary) for token in range(48)]
    requests = draw_requests(shared, vocabulary)
    return Case(plain, accelerate(model), len(vocabulary), requests)


@pytest.fixture(scope="module")
def smollm2() -> Case:
    plain = load_model("smollm2-135m", accelerated=False)
    shared = plain.encode("You are a careful assistant who writes short and true answers. " * 4)
    requests = draw_requests(shared, [plain.encode(f" {word}") for word in WORDS])
    return Case(plain.model, load_model("smollm2-135m").model, plain.vocab_size, requests)


def assert_batched_equals_sequential(case: Case, width: int, count: int = REQUESTS) -> None:
    requests = case.requests[:count]
    scheduler = case.scheduler(width)
    sequences = [sequence(str(i), *each) for i, each in enumerate(requests)]
    outputs = run(scheduler, sequences)
    differences = []
    for (prompt, _), got, want in zip(requests, outputs, case.expected(count), strict=True):
        assert len(got) == len(want)
        if got != want:
            at = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
            gap = logit_gap(case.plain, [*prompt, *want[:at]], got[at], want[at])
            differences.append((prompt, at, gap))
    assert all(gap < LARGEST_GAP for _, _, gap in differences), differences
    shared = [each for i, each in enumerate(sequences) if i % 3 == 0]
    assert sum(each.cached_tokens > 0 for each in shared) >= len(shared) - 1
    assert scheduler.stats.cached_tokens > 40 * (len(shared) - 1)


def assert_seeds_decide(case: Case, count: int) -> None:
    settings = [
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 50, "top_p": 1.0},
        {"temperature": 0.8, "min_p": 0.05, "repetition_penalty": 1.1},
        {"temperature": 1.2, "top_p": 1.0},
    ]

    def tokens_in(order: Iterable[int]) -> list[list[int]]:
        sequences = {
            i: sequence(str(i), *case.requests[i], seed=i, **settings[i % 4]) for i in order
        }
        run(case.scheduler(16), list(sequences.values()))
        return [sequences[i].output_tokens for i in sorted(sequences)]

    order = list(range(count))
    first = tokens_in(order)
    random.Random(2).shuffle(order)
    assert tokens_in(order) == first


def test_the_tiny_model_looks_at_every_place_of_a_prompt(tiny: Case) -> None:
    """Or else a batch that mixes up positions would pass."""
    asked = [prompt for prompt, _ in tiny.requests[:60] if prompt[0] != prompt[-1]]
    swapped = [[prompt[-1], *prompt[1:-1], prompt[0]] for prompt in asked]
    answers = [[sequential(tiny.plain, prompt, 1) for prompt in each] for each in (asked, swapped)]
    assert sum(one != other for one, other in zip(*answers, strict=True)) > 0.9 * len(asked)


@pytest.mark.parametrize("width", [1, 7, 16, 32])
def test_batched_output_equals_sequential_output(tiny: Case, width: int) -> None:
    assert_batched_equals_sequential(tiny, width)


def test_seeded_rows_are_the_same_in_another_order(tiny: Case) -> None:
    assert_seeds_decide(tiny, 60)


@pytest.mark.parametrize("width", [7, 16])
def test_batched_output_equals_sequential_output_of_smollm2(smollm2: Case, width: int) -> None:
    assert_batched_equals_sequential(smollm2, width, FEW)


@pytest.mark.parametrize("count", sizes(12, 60))
def test_seeded_rows_of_smollm2_are_the_same_in_another_order(smollm2: Case, count: int) -> None:
    assert_seeds_decide(smollm2, count)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "count"), [(1, FEW), (7, MANY), (16, MANY), (32, MANY)])
def test_much_batched_output_of_smollm2(
    smollm2: Case, width: int, count: int, request: pytest.FixtureRequest
) -> None:
    if cache := getattr(request.config, "cache", None):  # there is none with -p no:cacheprovider
        smollm2.keep_expected(cache)
    assert_batched_equals_sequential(smollm2, width, count)

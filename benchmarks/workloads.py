"""The workloads: seeded lists of requests, the same for whatever engine runs them.

Lengths, prompts and sampling settings are drawn from generators of their own, so the lengths of a
workload do not depend on the vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from vllm_mlx.sampling_params import SamplingParams

GREEDY: dict[str, Any] = {"temperature": 0.0}
SETTINGS: tuple[dict[str, Any], ...] = (
    GREEDY,
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 1.0, "top_k": 50},
    {"temperature": 0.8, "top_p": 1.0, "min_p": 0.05, "repetition_penalty": 1.1},
)
LONG_ROWS = 8
SEED = 297
"""Of the first thousand the one whose 512 requests of `uneven` come nearest to 72,628 prompt and
52,253 output tokens."""


@dataclass(frozen=True)
class TokenRequest:
    """One prompt of a workload.

    Attributes:
        prompt_tokens: token ids, the shared ones first.
        max_tokens: tokens to generate; there are no stop tokens, so exactly these.
        shared_tokens: leading tokens that stand in front of other prompts of the workload, too; a
            workload has one such prefix at most.
    """

    prompt_tokens: list[int]
    max_tokens: int
    params: SamplingParams
    shared_tokens: int = 0


@dataclass(frozen=True)
class Workload:
    name: str
    requests: tuple[TokenRequest, ...]

    @property
    def prompt_tokens(self) -> int:
        return sum(len(request.prompt_tokens) for request in self.requests)

    @property
    def output_tokens(self) -> int:
        return sum(request.max_tokens for request in self.requests)

    def first(self, count: int) -> Workload:
        """The workload of the first `count` requests."""
        return Workload(self.name, self.requests[:count])

    def answered_by(self, most: int) -> Workload:
        """The workload with answers of so many tokens at most."""
        cut = []
        for request in self.requests:
            tokens = min(most, request.max_tokens)
            params = request.params.model_copy(update={"max_tokens": tokens})
            cut.append(replace(request, max_tokens=tokens, params=params))
        return Workload(self.name, tuple(cut))


def uneven(count: int, vocab_size: int, seed: int) -> Workload:
    """A dataset's usual mix: log-normal prompts (median 120 tokens), geometric answers (mean 100).

    All greedy. Of 512 requests the longest answer is a few times the mean: the tail of a batch.
    """
    lengths = random.Random(f"uneven lengths {seed}")
    tokens = random.Random(f"uneven tokens {seed}")
    return Workload(
        "uneven",
        tuple(
            _request(_tokens(tokens, prompt, vocab_size), output)
            for prompt, output in _uneven_lengths(lengths, count)
        ),
    )


def long_tail(count: int, vocab_size: int, seed: int) -> Workload:
    """`uneven`, but a random tenth of the requests is ten times as long, prompt and answer."""
    draw = random.Random(f"long_tail {seed}")
    tokens = random.Random(f"long_tail tokens {seed}")
    lengths = _uneven_lengths(random.Random(f"uneven lengths {seed}"), count)
    for at in draw.sample(range(count), count // 10):
        prompt, output = lengths[at]
        lengths[at] = 10 * prompt, 10 * output
    return Workload(
        "long_tail",
        tuple(_request(_tokens(tokens, prompt, vocab_size), output) for prompt, output in lengths),
    )


def mixed(count: int, vocab_size: int, seed: int) -> Workload:
    """`uneven` in length, with four sampling settings, a quarter of the requests each.

    A random half of the requests has a system prompt of 150 tokens in front of its own.
    """
    draw = random.Random(f"mixed {seed}")
    system = _tokens(draw, 150, vocab_size)
    with_system = set(draw.sample(range(count), count // 2))
    settings = [SETTINGS[at % len(SETTINGS)] for at in range(count)]
    draw.shuffle(settings)
    requests = []
    for at, request in enumerate(uneven(count, vocab_size, seed).requests):
        prefix = system if at in with_system else []
        options = settings[at] if settings[at] is GREEDY else {**settings[at], "seed": at}
        prompt = prefix + request.prompt_tokens
        requests.append(_request(prompt, request.max_tokens, options, len(prefix)))
    return Workload("mixed", tuple(requests))


def prefix(count: int, vocab_size: int, seed: int) -> Workload:
    """A preamble of 1,000 tokens in front of questions of 30; answers of 40. Greedy."""
    draw = random.Random(f"prefix {seed}")
    preamble = _tokens(draw, 1000, vocab_size)
    return Workload(
        "prefix",
        tuple(
            _request(preamble + _tokens(draw, 30, vocab_size), 40, shared=len(preamble))
            for _ in range(count)
        ),
    )


def short(count: int, vocab_size: int, seed: int) -> Workload:
    """Classification: prompts of 200 tokens, answers of 1 to 4. Greedy."""
    draw = random.Random(f"short {seed}")
    return Workload(
        "short",
        tuple(_request(_tokens(draw, 200, vocab_size), draw.randint(1, 4)) for _ in range(count)),
    )


def long(count: int, vocab_size: int, seed: int) -> Workload:
    """Eight prompts of 4,096 tokens (fewer if `count` is less), answers of 128. Greedy."""
    draw = random.Random(f"long {seed}")
    rows = min(count, LONG_ROWS)
    return Workload(
        "long", tuple(_request(_tokens(draw, 4096, vocab_size), 128) for _ in range(rows))
    )


WORKLOADS: dict[str, Callable[[int, int, int], Workload]] = {
    "uneven": uneven,
    "long_tail": long_tail,
    "mixed": mixed,
    "prefix": prefix,
    "short": short,
    "long": long,
}


def _uneven_lengths(draw: random.Random, count: int) -> list[tuple[int, int]]:
    """(prompt, output) tokens of each request."""
    prompt = partial(draw.lognormvariate, math.log(120), 0.7)
    return [
        (_clip(round(prompt()), 8, 600), _clip(_geometric(draw, 100), 4, 400)) for _ in range(count)
    ]


def _geometric(draw: random.Random, mean: float) -> int:
    """Trials up to the first success: at least 1, `mean` on average."""
    return 1 + int(math.log(1.0 - draw.random()) / math.log(1.0 - 1.0 / mean))


def _clip(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def _tokens(draw: random.Random, count: int, vocab_size: int) -> list[int]:
    return draw.choices(range(vocab_size), k=count)


def _request(
    prompt: list[int], output: int, options: dict[str, Any] = GREEDY, shared: int = 0
) -> TokenRequest:
    return TokenRequest(prompt, output, SamplingParams.of(max_tokens=output, **options), shared)

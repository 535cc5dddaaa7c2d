"""`PromptScores`: how likely the model finds the tokens of a prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from vllm_mlx.batching.logits.logprobs import Logprobs, Measured, measure

MOST_BYTES = 1 << 28
"""Most bytes of logits that are measured at once, in float32."""


@dataclass(eq=False, slots=True)
class PromptScores:
    """What is asked of the tokens of one prompt, and what was found.

    Attributes:
        first: the place of the first token that is scored; at least 1, for nothing tells how likely
            the first of all is.
        top: likeliest tokens that are reported at each place.
        found: from `first` on, once they are computed.
    """

    first: int = 1
    top: int = 0
    found: list[Logprobs] = field(default_factory=list)

    @property
    def of_all(self) -> bool:
        """Whether a prefix that is shared has to tell of its tokens, too."""
        return self.first == 1

    @property
    def are_finite(self) -> bool:
        return all(math.isfinite(each.chosen) for each in self.found)


def most_tokens(vocab_size: int) -> int:
    """Return how many tokens' logits may be measured at once."""
    return max(1, MOST_BYTES // (4 * vocab_size))


def read(measured: list[Measured], row: int, top: int) -> list[Logprobs]:
    """Return what was measured of one of the rows, piece after piece, `[B, L]` each."""
    found = []
    for each in measured:
        chosen: Any = each.chosen[row].tolist()
        ids: Any = each.ids[row].tolist()
        values: Any = each.values[row].tolist()
        found += [Logprobs.read(*place, top) for place in zip(chosen, ids, values, strict=True)]
    return found


def score_prompt(
    model: Any, tokens: list[int], scores: PromptScores, vocab_size: int, step_size: int
) -> None:
    """Compute the scores of one prompt by itself, in pieces; shares nothing, keeps nothing."""
    cache, measured = make_prompt_cache(model), []
    last, step = len(tokens) - 1, min(step_size, most_tokens(vocab_size))
    for start in range(0, last, step):
        stop = min(last, start + step)
        logits = model(mx.array([tokens[start:stop]]), cache=cache)
        measured.append(measure(logits, mx.array([tokens[start + 1 : stop + 1]]), scores.top))
        mx.eval(measured[-1])
    scores.found = read(measured, 0, scores.top)[scores.first - 1 :]

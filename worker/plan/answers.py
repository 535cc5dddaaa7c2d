"""`Answers`: how long answers are, as a few rows of each class of prompt lengths show."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace

from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.request import new_request_id
from worker.plan.shares import Planned, Sampled

ROWS = 20
"""Rows of each class that are run."""


@dataclass(slots=True)
class Answers:
    """Answers that were measured, by the class of their prompts' lengths.

    Attributes:
        tokens: of each answer.
        finish_reasons: how many ended so.
        errors: an example of each type.
    """

    tokens: dict[int, list[int]] = field(default_factory=dict)
    finish_reasons: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(self.finish_reasons.values())

    @property
    def uncertainty(self) -> float:
        """How far the mean may be off, as a share of it: two standard errors."""
        spread, total = 0.0, 0.0
        for tokens in self.tokens.values():
            total += statistics.fmean(tokens) * len(tokens)
            if len(tokens) > 1:
                spread += statistics.variance(tokens) * len(tokens)
        return 2 * math.sqrt(spread) / total if total else 0.0

    def draw(self, planned: Seq[Planned]) -> Iterator[int]:
        """Yield a length for each answer, as they were in its class."""
        random_ = random.Random("answers")
        for each in planned:
            known = self.tokens.get(length_class(each.tokens))
            yield min(each.most, random_.choice(known)) if known else each.most


def length_class(tokens: int) -> int:
    """Return the power of two that a prompt of so many tokens is told with."""
    return max(4, (tokens - 1).bit_length())


def run_some(core: EngineCore, sample: Seq[Sampled]) -> Answers:
    """Run rows of each class of lengths, as a worker would."""
    chosen: dict[int, list[Sampled]] = {}
    for each in sample:
        some = chosen.setdefault(length_class(each.planned.tokens), [])
        if len(some) < ROWS:
            some.append(each)
    rows = [(power, each) for power, some in chosen.items() for each in some]
    requests = [replace(each.request, request_id=new_request_id()) for _, each in rows]
    answers, reasons = Answers(), Counter[str]()
    for (power, _), future in zip(rows, core.submit(*requests), strict=True):
        if error := future.exception():
            reasons["error"] += 1
            answers.errors[type(error).__name__] = str(error)
            continue
        output = future.result()
        reasons[output.finish_reason or ""] += 1
        answers.tokens.setdefault(power, []).append(output.completion_tokens)
    answers.finish_reasons = dict(reasons)
    return answers

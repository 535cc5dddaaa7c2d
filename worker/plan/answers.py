"""`Answers`: how long answers are, as some rows of each class of prompt lengths show."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from vllm_mlx.batching.core import EngineCore
from vllm_mlx.batching.request import new_request_id
from worker.plan.shares import Planned, SampleRow

ROWS = 20
"""Rows of each class that are run at first, and of one class each time that more are needed."""
ENOUGH = 0.2
"""Uncertainty of all tokens from which on no more rows are run."""


class Class(NamedTuple):
    """Rows that are alike in length, as powers of two: of the prompt, and of the longest answer."""

    prompt: int
    most: int

    @classmethod
    def of(cls, planned: Planned) -> Class:
        return cls(planned.length_class, planned.most.bit_length())


@dataclass(slots=True)
class Answers:
    """Answers that were measured, of rows of which it is not known how long their answer gets.

    Attributes:
        tokens: of each answer.
        finish_reasons: how many ended so.
        errors: an example of each type.
    """

    tokens: dict[Class, list[int]] = field(default_factory=dict)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.finish_reasons.total()

    @property
    def mean(self) -> float:
        """Tokens of an answer that was measured."""
        return statistics.fmean([n for each in self.tokens.values() for n in each] or [0])

    def spreads(self, planned: Seq[Planned]) -> dict[Class, float]:
        """Return, for each class, the variance of what its answers have together, as estimated."""
        found = {}
        for each, rows in Counter(map(Class.of, (row for row in planned if row.is_open))).items():
            if measured := self.tokens.get(each):
                count = len(measured)
                # One answer says nothing of the others: they may be twice as long, or none.
                variance = statistics.variance(measured) if count > 1 else measured[0] ** 2
                found[each] = rows**2 * variance / count * max(0.0, 1 - count / rows)
        return found

    def uncertainty(self, planned: Seq[Planned]) -> float:
        """Return how far all tokens may be off, as a share of them: two standard errors."""
        total = sum(self.draw(planned))
        return 2 * math.sqrt(sum(self.spreads(planned).values())) / total if total else 0.0

    def draw(self, planned: Seq[Planned]) -> Iterator[int]:
        """Yield a length for each answer, as they were in its class."""
        random_ = random.Random("answers")
        for each in planned:
            measured = self.tokens.get(Class.of(each)) if each.is_open else None
            yield min(each.most, random_.choice(measured)) if measured else each.most

    def as_dict(self) -> dict[str, Any]:
        lengths = [
            {"prompt_tokens_up_to": 1 << each.prompt, "completion_tokens": tokens}
            for each, tokens in sorted(self.tokens.items())
        ]
        return {"finish_reasons": self.finish_reasons, "errors": self.errors, "lengths": lengths}


def run_some(
    core: EngineCore, sample: Seq[SampleRow], planned: Seq[Planned], tell: Callable[[str], None]
) -> Answers:
    """Run rows of each class as a worker would; more of a class until the mean is known well.

    Args:
        sample: of which some are run.
        planned: all rows.
        tell: called with what is being done.
    """
    left: dict[Class, list[SampleRow]] = {}
    for each in sample:
        if each.planned.is_open:
            left.setdefault(Class.of(each.planned), []).append(each)
    answers = Answers()
    more = list(left)
    while more:
        rows = [(each, sampled) for each in more for sampled in left[each][:ROWS]]
        tell(f"running some rows of each length: {answers.rows + len(rows)}")
        _run(core, rows, answers)
        left = {each: waiting[ROWS * (each in more) :] for each, waiting in left.items()}
        spreads = {each: s for each, s in answers.spreads(planned).items() if left[each]}
        widest = max(spreads, key=lambda each: spreads[each], default=None)
        is_enough = widest is None or answers.uncertainty(planned) <= ENOUGH
        more = [] if is_enough or widest is None else [widest]
    return answers


def _run(core: EngineCore, rows: Seq[tuple[Class, SampleRow]], answers: Answers) -> None:
    requests = [replace(each.request, request_id=new_request_id()) for _, each in rows]
    for (of, _), future in zip(rows, core.submit(*requests), strict=True):
        if error := future.exception():
            answers.finish_reasons["error"] += 1
            answers.errors[type(error).__name__] = str(error)
            continue
        output = future.result()
        answers.finish_reasons[output.finish_reason or ""] += 1
        answers.tokens.setdefault(of, []).append(output.completion_tokens)

"""Copies of a compiled grammar share a lexer: one row that takes it to a limit breaks no other."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from llguidance import LLParserLimits

from tests.helpers.decoding import step
from tests.helpers.grammars import ALPHABET, constrained, grammars, said
from tests.vllm_mlx.batching.logits.test_constraint import RUNNERS, model
from vllm_mlx.batching.logits import constraint
from vllm_mlx.batching.logits.constraint import Constraint, Grammars
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.errors import ConstraintError
from vllm_mlx.structured_outputs import StructuredOutputs

__all__ = ["model"]
# Of a's and b's the lexer has to remember the last ten: as many states as there are such texts.
OUTPUTS = StructuredOutputs.of({"regex": "[ab]*a[ab]{9}z|q{130}|x{3}"})


def only(letters: str) -> dict[int, float]:
    return {ALPHABET.index(each): -100.0 for each in "abqxz" if each not in letters}


def row(few: Grammars, name: str, letters: str, max_tokens: int, **how: Any) -> Any:
    made = constrained(
        name, [1], max_tokens, structured_outputs=OUTPUTS, logit_bias=only(letters), **how
    )
    made._new_constraint = lambda: Constraint(few, OUTPUTS)
    made.restart()
    return made


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Grammars:
    monkeypatch.setattr(constraint, "LIMITS", LLParserLimits(max_lexer_states=200))
    return Grammars(grammars()._tokenizer)


def test_one_alone_breaks_what_it_shares(few: Grammars) -> None:
    """What this guards against, in llguidance itself."""
    first, second = few.matcher(OUTPUTS), few.matcher(OUTPUTS)
    second.consume_tokens([ALPHABET.index("q")])
    drawn = random.Random(0)
    for _ in range(400):
        first.consume_tokens([ALPHABET.index(drawn.choice("ab"))])
        first.compute_bitmask()
        if first.is_error():
            break
    second.compute_bitmask()
    assert first.is_error()
    assert second.is_error()


@pytest.mark.parametrize("make", RUNNERS)
def test_rows_beside_and_behind_it_are_answered(
    make: Callable[[Any], Scheduler], few: Grammars, model: Any
) -> None:
    breaks = row(few, "breaks", "ab", 900, temperature=2.0, top_p=1.0, seed=3)
    beside = row(few, "beside", "q", 200)
    scheduler = make(model)
    scheduler.add(breaks)
    scheduler.add(beside)
    while scheduler.has_unfinished:
        step(scheduler)
    behind = row(few, "behind", "x", 9)
    scheduler.add(behind)
    while scheduler.has_unfinished:
        step(scheduler)

    error = breaks.future.exception(0)
    assert isinstance(error, ConstraintError)
    assert "too many states" in str(error)
    assert said(beside) == "q" * 130
    assert beside.future.result(0).complete
    assert said(behind) == "xxx"

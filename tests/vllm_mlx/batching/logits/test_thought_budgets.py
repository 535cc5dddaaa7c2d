"""Thoughts that are closed at the end of their budget, whatever steps the model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import pytest

from tests.helpers.decoding import VOCAB, run, sequence, tiny_llama
from tests.vllm_mlx.batching.runners.test_fallbacks import bounds_of
from vllm_mlx.batching.runners.make_runner import make_runner
from vllm_mlx.batching.runners.one_by_one import text_runner
from vllm_mlx.batching.runners.runner import Runner
from vllm_mlx.batching.runners.split import SplitRunner
from vllm_mlx.batching.runners.upstream import UpstreamRunner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.sequence import Sequence as Row
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.batching.text.thinking import Thinking, ThinkingMarkers
from vllm_mlx.scheduler_config import SchedulerConfig

ONE = ThinkingMarkers((5,), (9,), (9,))
TWO = ThinkingMarkers((5, 6), (9, 10), (9, 10))
LONG = ThinkingMarkers((5,), (9,), (9, 5, 20, 9, 21))  # it opens another thought on its way
MARKERS = {"one token": ONE, "two tokens": TWO, "more behind it": LONG}
LENGTH = 24


def slots(model: Any) -> Runner:
    runner = make_runner(model, vocab_size=VOCAB, config=SchedulerConfig(max_num_seqs=5))
    assert isinstance(runner, SlotRunner)
    return runner


def upstream(model: Any) -> Runner:
    return UpstreamRunner(model, vocab_size=VOCAB, bounds=bounds_of(max_num_seqs=5))


def alone(model: Any) -> Runner:
    return text_runner(model, vocab_size=VOCAB, bounds=bounds_of())


def split(model: Any) -> Runner:
    return SplitRunner(upstream(model), alone(model))


RUNNERS: list[Callable[[Any], Runner]] = [upstream, alone, split]
BUDGETS = [0, 1, None, 2, 0, 4, 3, 8]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


def rows_of(markers: ThinkingMarkers, budgets: Sequence[int | None]) -> list[Row]:
    """Rows that open and close thoughts at random; every other one begins within a thought."""
    draw = random.Random(4)
    rows = []
    for at, budget in enumerate(budgets):
        prompt = draw.choices(range(11, VOCAB), k=draw.randint(1, 6))
        prompt += markers.start if at % 2 else []
        row = sequence(str(at), prompt, LENGTH, temperature=2.0, top_p=1.0, seed=at)
        row._new_thinking = partial(Thinking, markers, budget, prompt, ())
        row.restart()
        rows.append(row)
    return rows


def thoughts(markers: ThinkingMarkers, row: Row) -> list[list[int]]:
    """The tokens of each thought, by looking for the markers in all that was written."""
    written, found, at = [*row.prompt_tokens, *row.output_tokens], [], 0
    first = len(row.prompt_tokens)
    marker = (markers.start, markers.end)
    while at < len(written):
        is_open = len(found) % 2
        wanted = marker[is_open]
        end = at
        while end < len(written) and tuple(written[end : end + len(wanted)]) != wanted:
            end += 1
        found.append(written[max(at, first) : end])
        at = end + len(wanted)
    return found[1::2]


@pytest.fixture(scope="module")
def in_slots(model: Any) -> dict[str, list[Row]]:
    """Rows of each kind of markers after slots have stepped them."""
    found = {}
    for kind, markers in MARKERS.items():
        found[kind] = rows_of(markers, BUDGETS)
        run(Scheduler(slots(model), set()), found[kind])
    return found


@pytest.mark.parametrize("kind", ["one token", "two tokens"])
def test_no_thoughts_are_longer_than_their_budget(
    model: Any, in_slots: dict[str, list[Row]], kind: str
) -> None:
    markers, rows, closed = MARKERS[kind], in_slots[kind], 0
    unbounded = run(Scheduler(slots(model), set()), rows_of(markers, [None] * len(BUDGETS)))
    for row, other, budget in zip(rows, unbounded, BUDGETS, strict=True):
        if budget is None:
            assert row.output_tokens == other
            continue
        spent = sum(map(len, thoughts(markers, row)))
        assert spent <= budget + (len(markers.end) - 1)  # half a marker may be the last token
        assert row.thinking
        assert row.thinking.state.spent <= budget
        if row.output_tokens != other:
            apart = next(i for i in range(LENGTH) if row.output_tokens[i] != other[i])
            assert row.output_tokens[apart] in markers.end
            closed += 1
    assert closed >= 4


@pytest.mark.parametrize("make", RUNNERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("kind", MARKERS)
def test_each_runner_closes_them_at_the_same_token(
    model: Any, in_slots: dict[str, list[Row]], kind: str, make: Any
) -> None:
    found = run(Scheduler(make(model), set()), rows_of(MARKERS[kind], BUDGETS))
    assert found == [row.output_tokens for row in in_slots[kind]]


def test_what_closes_a_thought_comes_whole(model: Any) -> None:
    rows = rows_of(LONG, [None, 2, None, 4])
    outputs = run(Scheduler(slots(model), set()), rows)
    for row, tokens, budget in zip(rows, outputs, (None, 2, None, 4), strict=True):
        if budget is not None:
            at = tokens.index(9)
            assert row.thinking
            if at == budget:  # it did not close it by itself
                assert tuple(tokens[at : at + 5]) == LONG.closing


def test_rows_that_start_again_keep_to_their_budget(model: Any) -> None:
    """After a step that failed, each row runs again alone from its prompt."""

    class Failing:
        layers = model.layers

        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, tokens: mx.array, cache: Any = None) -> Any:
            self.calls += 1
            if self.calls == 12:
                raise RuntimeError("once")
            return model(tokens, cache=cache)

    rows = rows_of(ONE, [1, 2, 3, 4])
    runner = UpstreamRunner(Failing(), vocab_size=VOCAB, bounds=bounds_of(max_num_seqs=5))
    found = run(Scheduler(runner, set()), rows)

    assert all(row.alone for row in rows)
    assert found == run(Scheduler(upstream(model), set()), rows_of(ONE, [1, 2, 3, 4]))


def test_rows_without_a_budget_take_the_way_they_took(model: Any) -> None:
    runner: Any = slots(model)
    choose: Any = object()
    rows = dict(enumerate(rows_of(ONE, [None, None])))
    assert runner._sampler._budgets.bounded(choose, rows) is choose

"""Constrained rows in every runner: valid, whole, and no concern of the rows beside them."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable
from typing import Any

import jsonschema
import mlx.core as mx
import pytest
from llguidance import LLMatcher, LLParserLimits

from tests.helpers.decoding import VOCAB, run, sequence, sequential, step, tiny_llama
from tests.helpers.grammars import ALPHABET, END, constrained, grammars, said
from tests.vllm_mlx.batching.runners.test_fallbacks import bounds_of, upstream
from vllm_mlx.batching.logits import constraint, masks
from vllm_mlx.batching.logits.constraint import Constraint, Grammars
from vllm_mlx.batching.runners.make_runner import make_runner
from vllm_mlx.batching.runners.one_by_one import text_runner
from vllm_mlx.batching.runners.split import SplitRunner
from vllm_mlx.batching.scheduler import Scheduler
from vllm_mlx.batching.slots import draws
from vllm_mlx.batching.slots.draws import Sampling, make_choose
from vllm_mlx.batching.slots.runner import SlotRunner
from vllm_mlx.batching.text.thinking import Thinking, ThinkingMarkers
from vllm_mlx.errors import ConstraintError
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.scheduler_config import SchedulerConfig
from vllm_mlx.structured_outputs import StructuredOutputs

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["a", "bc"]},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
        "many": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["kind", "size", "many"],
    "additionalProperties": False,
}
LABELS = ["positive", "negative", "neutral", "neg"]


def slots(model: Any) -> Scheduler:
    runner = make_runner(model, vocab_size=VOCAB, config=SchedulerConfig(max_num_seqs=5))
    assert isinstance(runner, SlotRunner)
    return Scheduler(runner, {END})


def batches(model: Any) -> Scheduler:
    return Scheduler(upstream(model, max_num_seqs=5)._runner, {END})


def alone(model: Any) -> Scheduler:
    return Scheduler(text_runner(model, vocab_size=VOCAB, bounds=bounds_of()), {END})


def split(model: Any) -> Scheduler:
    text = batches(model)._runner
    return Scheduler(SplitRunner(text, alone(model)._runner), {END})


RUNNERS = [slots, batches, alone, split]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llama()


def rows() -> list[Any]:
    made: list[Any] = []
    for at in range(12):
        how = {"temperature": 1.5, "seed": at, "top_p": (1.0, 0.8)[at % 2]} if at % 3 else {}
        prompt, name = [at + 1, 3, 5 + at][: 1 + at % 3], str(at)
        if at % 4 == 0:
            made.append(constrained(name, prompt, 120, structured_outputs={"json": SCHEMA}, **how))
        elif at % 4 == 1:
            made.append(constrained(name, prompt, 30, structured_outputs={"choice": LABELS}, **how))
        elif at % 4 == 2:
            outputs = {"regex": r"\d{3}-[a-c]+"}
            made.append(constrained(name, prompt, 9, structured_outputs=outputs, **how))
        else:
            made.append(sequence(name, prompt, 10 + at, **how))
    return made


@pytest.mark.parametrize("make", RUNNERS)
def test_every_answer_is_valid_and_free_rows_stay_as_they_are(
    make: Callable[[Any], Scheduler], model: Any
) -> None:
    free = run(make(model), rows()[3::4])
    mixed = rows()
    run(make(model), mixed)

    assert [row.output_tokens for row in mixed[3::4]] == free
    for at, row in enumerate(mixed):
        text = said(row)
        if at % 4 == 0:
            assert row.finish_reason == "stop"
            jsonschema.validate(json.loads(text), SCHEMA)
        elif at % 4 == 1:
            assert (row.finish_reason, text in LABELS) == ("stop", True)
        elif at % 4 == 2:
            assert re.fullmatch(r"[0-9]{3}-[abc]+", text)
            assert row.finish_reason == ("stop" if row.output_tokens[-1] == END else "length")


@pytest.mark.parametrize("make", RUNNERS)
def test_the_same_rows_alike_in_every_runner(make: Callable[[Any], Scheduler], model: Any) -> None:
    if make is not slots:
        assert run(make(model), rows()) == run(slots(model), rows())


@pytest.mark.parametrize("make", RUNNERS)
def test_a_choice_ends_without_a_step_for_the_end_token(
    make: Callable[[Any], Scheduler], model: Any
) -> None:
    row = constrained("a", [1, 2], 20, structured_outputs={"choice": ["abc"]})
    run(make(model), [row])
    assert said(row) == "abc"
    assert (row.finish_reason, len(row.output_tokens)) == ("stop", 3)


@pytest.mark.parametrize("make", RUNNERS)
def test_the_rest_of_the_only_label_left_takes_no_steps(
    make: Callable[[Any], Scheduler], model: Any
) -> None:
    label = "a" + "bca" * 5
    scheduler = make(model)
    how = {"structured_outputs": {"choice": [label, "b"]}, "logit_bias": {tokens_of("b")[0]: -100}}
    row, cut, told = (
        constrained(name, [1, 2], most, **how, **more)
        for name, most, more in [("r", 40, {}), ("c", 7, {}), ("t", 40, {"logprobs": 1})]
    )
    run(scheduler, [row, cut])
    assert said(row) == label
    assert (row.finish_reason, cut.finish_reason, len(cut.output_tokens)) == ("stop", "length", 7)
    assert scheduler.stats.completion_tokens == len(label) + 7
    assert scheduler.stats.steps <= 4
    run(scheduler, [told])
    assert len(told.output(said(told), None, None).logprobs) == len(told.output_tokens)


@pytest.mark.parametrize("make", RUNNERS)
def test_what_max_tokens_cuts_ends_by_length(make: Callable[[Any], Scheduler], model: Any) -> None:
    row = constrained("a", [1, 2], 4, structured_outputs={"json": SCHEMA})
    run(make(model), [row])
    assert (row.finish_reason, len(row.output_tokens)) == ("length", 4)
    assert said(row).startswith("{")


@pytest.mark.parametrize("make", RUNNERS)
def test_a_constraint_begins_behind_a_thought(make: Callable[[Any], Scheduler], model: Any) -> None:
    (free,) = run(make(model), [sequence("f", [1, 2], 8)])
    markers = ThinkingMarkers((9, 8), (free[3],), (free[3],))
    row = constrained(
        "a",
        [1, 2],
        40,
        lambda: Thinking(markers, None, [9, 8, 2], [END]),
        structured_outputs={"choice": ["abc"]},
    )
    run(make(model), [row])
    cut = free.index(free[3]) + 1
    assert row.output_tokens == free[:cut] + tokens_of("abc")


@pytest.mark.parametrize("make", RUNNERS)
def test_a_header_that_has_begun_goes_on_as_it_has_to(
    make: Callable[[Any], Scheduler], model: Any
) -> None:
    """A model that opens anything but a thought or an answer says nothing of it."""
    (free,) = run(make(model), [sequence("f", [1, 2], 2)])
    thought, answer, end = [each for each in (50, 51, 52, 53) if each != free[1]][:3]
    markers = ThinkingMarkers((free[0], thought), (end,), (end,), answer=(free[0], answer))
    row = constrained(
        "a",
        [1, 2],
        40,
        lambda: Thinking(markers, None, [1, 2], [END]),
        structured_outputs={"choice": ["abc", "bc"]},
        logit_bias={thought: -100},
    )
    run(make(model), [row])
    assert row.output_tokens[:2] == [free[0], answer]
    assert said(row)[-3:] in ("abc", "bc")
    assert (row.finish_reason, row._is_complete()) == ("stop", True)


OPEN, CLOSE = 58, 59  # of no text


@pytest.mark.parametrize("opens", [True, False])
def test_a_row_that_has_not_begun_to_think_may_do_so_at_its_start(opens: bool) -> None:
    markers = ThinkingMarkers((OPEN,), (CLOSE,), (CLOSE,))
    row = constrained(
        "a",
        [1],
        40,
        lambda: Thinking(markers, None, [1], [END]),
        structured_outputs={"regex": "abc"},
    )
    mask = masks.make_mask({0: row})
    assert mask
    for token in ([OPEN, 3, 4, CLOSE] if opens else []) + tokens_of("abc"):
        left: Any = mask(mx.zeros((1, VOCAB))).tolist()
        allowed = [at for at in range(VOCAB) if left[0][at] == 0]
        assert token in allowed
        assert (OPEN in allowed) == (not row.output_tokens or token in (3, 4, CLOSE))
        row.append(token)
    assert row.finish_reason == "stop"


def test_where_messages_have_headers_the_text_of_the_answer_is_constrained() -> None:
    channel, message, end, start = 53, 54, 55, 56
    markers = ThinkingMarkers(
        (channel, 1, message),
        (end,),
        (end,),
        frozenset((start, channel, end)),
        turn=(start, 5),
        answer=(channel, 2, message),
    )
    row = constrained(
        "a",
        [1],
        40,
        lambda: Thinking(markers, None, [start, 5], [END]),
        structured_outputs={"regex": "abc"},
    )
    thought = [channel, 1, message, 7, 7, end, start, 5, channel, 2, message]
    for token in thought + tokens_of("abc"):
        assert row.finish_reason is None
        row.append(token)
    assert row.finish_reason == "stop"


def test_slots_make_masks_on_another_thread(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, makers = masks._allowed, []

    def allowed(constraints: list[Constraint]) -> mx.array:
        makers.append(threading.current_thread().name)
        return made(constraints)

    monkeypatch.setattr(masks, "_allowed", allowed)
    run(slots(model), [constrained("a", [3, 4], 9, structured_outputs={"choice": LABELS})])
    assert makers
    assert set(makers) == {"constraints"}


def test_rows_keep_their_masks_when_others_join_and_leave(model: Any) -> None:
    scheduler = slots(model)
    labels = [f"{a}{b}" * 4 for a in "abcdefgh" for b in "xyz"]
    made = [
        constrained(str(at), [at % 9 + 1], 20, structured_outputs={"regex": label})
        for at, label in enumerate(labels)
    ]
    for row in made:
        scheduler.add(row)
    for _ in range(6):
        step(scheduler)
    gone = next(iter(scheduler.running.values()))
    scheduler.remove(gone.request_id)
    while scheduler.has_unfinished:
        step(scheduler)
    assert [said(row) for row in made if row is not gone] == [
        label for row, label in zip(made, labels, strict=True) if row is not gone
    ]


def test_a_row_that_starts_over_starts_its_grammar_over(model: Any) -> None:
    scheduler = slots(model)
    row = constrained("a", [1, 2], 20, structured_outputs={"regex": "abcabc"})
    scheduler.add(row)
    while len(row.output_tokens) < 3:
        step(scheduler)
    scheduler._start_over([row], RuntimeError())
    scheduler._runner.close()
    while scheduler.has_unfinished:
        step(scheduler)
    assert said(row) == "abcabc"


def outputs_of(**kind: Any) -> StructuredOutputs:
    return StructuredOutputs.of(kind)


def tokens_of(text: str) -> list[int]:
    return [ALPHABET.index(char) for char in text]


def test_a_token_that_is_no_part_of_the_grammar_fails_the_row() -> None:
    row = constrained("a", [1], 20, structured_outputs={"regex": "abc"})
    row.append(tokens_of("a")[0])
    with pytest.raises(ConstraintError, match="regex: after 2 tokens"):
        row.append(tokens_of("z")[0])


def test_an_end_that_comes_too_early_fails_the_row() -> None:
    row = constrained("a", [1], 20, structured_outputs={"regex": "abc"})
    row.append(tokens_of("a")[0])
    with pytest.raises(ConstraintError):
        row.append(END)


class Broken:
    """A matcher that fails while it makes its mask, as one does whose lexer is at a limit."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self.error = False

    def deep_copy(self) -> LLMatcher:
        return self._matcher.deep_copy()

    def is_error(self) -> bool:
        return self.error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matcher, name)


def test_a_row_whose_grammar_another_row_broke_goes_on_in_its_own() -> None:
    made = Constraint(grammars(), outputs_of(choice=["abc"]))
    made.take(0, tokens_of("a")[0])
    broken: Any = Broken(made._matcher)
    broken.error = True
    made._matcher = broken
    mask = grammars().new_mask(1)
    mask[0] = 0

    assert made.check_mask(mask[0])
    assert [at for at in range(VOCAB) if mask[0, at // 32] >> (at % 32) & 1] == tokens_of("b")
    assert isinstance(made._matcher, LLMatcher)
    assert made.failure is None


@pytest.mark.parametrize("make", RUNNERS)
def test_a_grammar_that_gets_too_complex_is_the_error_of_its_row(
    make: Callable[[Any], Scheduler], model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask is only the end of the text then, which would end the row as if it were whole."""
    monkeypatch.setattr(constraint, "LIMITS", LLParserLimits(step_max_items=2))
    few = Grammars(grammars()._tokenizer)
    outputs = outputs_of(json=SCHEMA)
    row = constrained("a", [1, 2], 50, structured_outputs=outputs)
    row._new_constraint = lambda: Constraint(few, outputs)
    row.restart()
    beside = [sequence("b", [3], 9), constrained("c", [3], 9, structured_outputs={"regex": "ab"})]
    scheduler = make(model)
    for each in (row, *beside):
        scheduler.add(each)
    while scheduler.has_unfinished:
        step(scheduler)

    assert isinstance(row.future.exception(0), ConstraintError)
    assert beside[0].output_tokens == sequential(model, [3], 9)
    assert said(beside[1]) == "ab"


def test_a_token_that_the_mask_has_not_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of float32 weights on a GPU gave those of zero a width of 8e-7."""
    wrong = lambda rows, vocab_size: lambda logits: mx.zeros(logits.shape[0], mx.int32)  # noqa: E731
    monkeypatch.setattr(draws, "_make_unfiltered", wrong)
    params = SamplingParams.of(temperature=1, top_p=1.0, structured_outputs={"choice": ["a"]})
    choose = make_choose({0: Sampling(params, random.Random(0))}, 4)
    masked = mx.array([[-mx.inf, 1.0, 3.0, -mx.inf], [-mx.inf, 1.0, 3.0, 2.0]])
    assert choose(masked).tolist() == [2, 2]


@pytest.mark.parametrize("rows", [[0, 1], [1]], ids=["all", "some"])
@pytest.mark.parametrize("type", [mx.float32, mx.bfloat16])
def test_logits_are_masked_by_the_row(rows: list[int], type: mx.Dtype, model: Any) -> None:
    made = {
        at: constrained("a", [1], 9, structured_outputs={"regex": label})
        for at, label in enumerate(["abc", "xyz"])
        if at in rows
    }
    mask = masks.make_mask(made)
    assert mask
    logits = mx.ones((2, VOCAB), dtype=type)
    left: Any = (mask(logits) > 0).tolist()
    for at, label in enumerate("ax"):
        allowed = [token for token in range(VOCAB) if left[at][token]]
        assert allowed == (tokens_of(label) if at in rows else list(range(VOCAB)))


@pytest.mark.parametrize(
    "outputs",
    [
        {"json": {"type": "object", "properties": {f"p{n}": {"const": n} for n in range(900)}}},
        {"choice": [f"label {n} of many" for n in range(3000)]},
    ],
    ids=["properties", "labels"],
)
def test_large_grammars_do_not_end_at_the_first_token(outputs: Any, model: Any) -> None:
    row = constrained("a", [1, 2], 8, structured_outputs=outputs, temperature=1, seed=1)
    run(slots(model), [row])
    assert row.future.result(0).completion_tokens == 8

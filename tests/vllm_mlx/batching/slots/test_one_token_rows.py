"""Prompts of one token, of a model that tells the first token of all from others."""

from __future__ import annotations

import mlx.core as mx
import pytest

from tests.helpers.architectures import VOCAB
from tests.helpers.decoding import new_scheduler, run, sequence, sequential, step
from tests.helpers.exactness import undo_dispatch
from tests.helpers.text_folders import new_model
from vllm_mlx.batching.slots.prefill import PrefillBatch

TOLD = [[6], [9], [13], [39], [44]]
"""Answered otherwise by a step that goes on from zeros."""
LONGER = [[5, 8, 11, 14], [7, 10, 13, 16, 19]]


@pytest.fixture(scope="module")
def model():
    made = new_model("recurrent_gemma")
    undo_dispatch()
    return made


@pytest.fixture
def scheduler(model):
    return new_scheduler(model, vocab_size=VOCAB, max_num_seqs=4)


def test_they_are_answered_as_alone_beside_others(model, scheduler):
    prompts = [LONGER[0], *TOLD[:2], LONGER[1], *TOLD[2:]]
    found = run(scheduler, [sequence(str(i), each, 5) for i, each in enumerate(prompts)])
    assert found == [sequential(model, each, 5) for each in prompts]
    assert scheduler.stats.prompt_tokens == sum(map(len, prompts))
    assert scheduler.stats.completion_tokens == 5 * len(prompts)


def test_what_is_told_of_them_is_what_the_model_says(model, scheduler):
    run(scheduler, [sequence("before", LONGER[0], 2)])
    row = sequence("row", TOLD[0], 1, logprobs=3, prompt_logprobs=0)
    run(scheduler, [row])
    logits = model(mx.array([TOLD[0]]))[0, -1]
    expected = logits - mx.logsumexp(logits)
    (found,) = row.future.result().logprobs
    for each in (found, *found.top):
        assert each.logprob == pytest.approx(expected[each.token_id].item(), abs=1e-4)
    assert row.scores.found == []  # nothing tells how likely a first token is


def test_one_that_leaves_before_its_step_harms_no_other(model, scheduler, monkeypatch):
    advance = PrefillBatch.advance

    def break_on_bad(self, *given):
        if any(getattr(row.target, "request_id", "") == "bad" for row in self.rows):
            raise RuntimeError("no prompt of this length")
        return advance(self, *given)

    first = sequence("first", LONGER[0], 9)
    scheduler.add(first)
    while not first.output_tokens:
        step(scheduler)
    monkeypatch.setattr(PrefillBatch, "advance", break_on_bad)
    gone, stays, bad = (
        sequence(name, prompt, 5)
        for name, prompt in [("gone", TOLD[0]), ("stays", TOLD[1]), ("bad", LONGER[1])]
    )
    for each in (gone, stays, bad):
        scheduler.add(each)
    step(scheduler)  # the two have a slot, and nothing is launched
    assert len(scheduler._runner._running) == 3
    scheduler.remove("gone")
    while scheduler.has_unfinished:
        step(scheduler)
    assert not gone.output_tokens
    assert not stays.alone, "a step failed"
    assert bad.future.exception(0)
    assert first.output_tokens == sequential(model, LONGER[0], 9)
    assert stays.output_tokens == sequential(model, TOLD[1], 5)

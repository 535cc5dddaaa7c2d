"""A row's settings over the run's: what neither says alone may be wrong of both together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.sources import read_requests
from vllm_mlx.sampling_params import SamplingParams

HELD = {"structured_outputs": {"choice": ["a", "b"]}}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
PAIRS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (HELD, {"stop": ["x"]}, "stop=('x',): an answer ends where"),
    (HELD, {"stop_token_ids": [3]}, "stop_token_ids=(3,): an answer ends where"),
    (HELD, {"min_tokens": 4}, "min_tokens=4: an answer ends where"),
    (HELD, {"ignore_eos": True}, "ignore_eos=True: an answer ends where"),
    (HELD, TOOLS, "structured_outputs: an answer that is held to it can't call tools"),
    ({"score_choices": True, **HELD}, {"max_tokens": 0}, "max_tokens=0: a label to rank has a tok"),
    (
        {**TOOLS, "tool_choice": "required"},
        {"stop": ["x"]},
        "stop=('x',): an answer ends where tool_choice says",
    ),
    ({"max_tokens": 4}, {"min_tokens": 5}, "min_tokens=5: more than max_tokens=4"),
    (
        {"continue_final_message": True},
        {"add_generation_prompt": True},
        "continue_final_message: goes on with a message",
    ),
    (
        {"score_choices": True, **HELD},
        {"logit_bias": {"3": 1.0}},
        "logit_bias={3: 1.0}",
    ),
    (
        {"score_choices": True, **HELD},
        {"prompt_logprobs": 1},
        "prompt_logprobs=1",
    ),
]


@pytest.mark.parametrize(("one", "other", "error"), PAIRS)
@pytest.mark.parametrize("turned", [False, True], ids=["row first", "run first"])
def test_they_are_refused_together(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], error: str, turned: bool
) -> None:
    row, run = (other, one) if turned else (one, other)
    path = tmp_path / "rows.jsonl"
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path.write_text("".join(json.dumps(each) + "\n" for each in (chat | row, chat | one | other)))

    by_row, at_once = read_requests(path, sampling=SamplingParams.of(**run))

    for found in (by_row, at_once):
        assert found.error is not None
        assert str(found.error).startswith(error)


def test_it_is_told_whose_setting_changes_no_score(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = ({"score_choices": True, **HELD, **more} for more in ({}, {"prompt_logprobs": 0}))
    path.write_text("".join(json.dumps({"prompt": "a", **row}) + "\n" for row in rows))

    theirs, own = read_requests(path, sampling=SamplingParams.of(prompt_logprobs=0))

    says = "changes no score of a given label; leave it out"
    assert f"prompt_logprobs=0 of the run: {says} there" in str(theirs.error)
    assert f"prompt_logprobs=0: {says}" in str(own.error)

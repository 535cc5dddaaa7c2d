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
    ({"max_tokens": 4}, {"min_tokens": 5}, "min_tokens=5: more than max_tokens=4"),
    (
        {"continue_final_message": True},
        {"add_generation_prompt": True},
        "continue_final_message: goes on with a message",
    ),
    (
        {"score_choices": True, **HELD},
        {"logit_bias": {"3": 1.0}},
        "logit_bias={3: 1.0}: changes no score",
    ),
    (
        {"score_choices": True, **HELD},
        {"prompt_logprobs": 1},
        "prompt_logprobs=1: changes no score",
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

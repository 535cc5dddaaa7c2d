"""OpenAI-batch rows: the envelope, the body's fields, and what is not supported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.sources import read_requests
from jobs.sources.openai import OpenAI
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams

OPENAI = OpenAI()
MESSAGES = [{"role": "user", "content": "hi"}]
NO_OPS: dict[str, Any] = {
    "best_of": 1,
    "stream": False,
    "echo": False,
    "logprobs": False,
    "top_logprobs": 0,
    "tools": None,
    "functions": [],
    "function_call": "none",
    "modalities": ["text"],
    "audio": {},
    "stream_options": {},
    "length_penalty": 1.0,
    "verbosity": "medium",
    "unheard_of": [],
}
KEPT: dict[str, Any] = {
    "user": "u",
    "store": True,
    "service_tier": "flex",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
}


def envelope(url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": url, "body": body}


def chat(**body: Any) -> dict[str, Any]:
    return envelope(messages=MESSAGES, **body)


def complaint(data: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        OPENAI.request(data)
    return str(caught.value)


def test_a_file_of_both_endpoints(tmp_path: Path) -> None:
    data = [chat(max_tokens=3), {**envelope("/v1/completions", prompt="p"), "custom_id": "b"}]
    path = tmp_path / "batch.jsonl"
    path.write_text("\n".join([*map(json.dumps, data), "broken", "[]"]))
    first, second, *bad = read_requests(path)
    assert first.request
    assert second.request
    assert (first.id, first.data, first.request.messages) == ("a", data[0], MESSAGES)
    assert first.request.max_tokens == 3
    assert (second.id, second.request.prompt) == ("b", "p")
    assert [row.error is not None for row in bad] == [True, True]


def test_all_sampling_fields_are_mapped() -> None:
    sampling = {
        "max_tokens": 5,
        "temperature": 0.1,
        "top_p": 0.2,
        "top_k": 3,
        "min_p": 0.4,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"7": -100},
        "stop": ["x"],
        "stop_token_ids": [7],
        "min_tokens": 2,
        "ignore_eos": True,
        "seed": 9,
        "logprobs": 3,
        "stop_on_repetition": True,
        "allow_special_tokens": True,
        "continue_final_message": True,
        "add_generation_prompt": False,
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "prompt_logprobs": 0,
    }
    request = OPENAI.request(envelope("/v1/completions", prompt="p", **sampling))
    assert request.model_fields_set == {"id", "prompt", *sampling}
    # The first says where a text ends, as `stop` does, and scores go with it; the others are no
    # plain prompt's.
    own = {"structured_outputs", "score_choices", "normalize_scores"}
    own |= {"thinking", "thinking_budget", "chat_template_kwargs"}
    assert sampling.keys() | own == SamplingParams.model_fields.keys()
    assert request.model_dump(include=set(sampling)) == {
        **sampling,
        "logit_bias": {7: -100},
        "stop": ("x",),
        "stop_token_ids": (7,),
        "tools": ({"type": "function", "function": {"name": "f"}},),
    }


def test_max_completion_tokens_is_max_tokens() -> None:
    assert OPENAI.request(chat(max_completion_tokens=5)).max_tokens == 5
    assert OPENAI.request(chat(max_completion_tokens=5, max_tokens=None)).max_tokens == 5
    assert "give one of" in complaint(chat(max_completion_tokens=5, max_tokens=5))


def test_the_model_is_carried_not_obeyed() -> None:
    data = chat(model="gpt-4o", **KEPT, metadata={"k": "v"}, max_completion_tokens=5, **NO_OPS)
    assert OPENAI.request(data).model_fields_set == {"id", "messages", "max_tokens"}
    assert OPENAI.columns(data) == {
        "messages": MESSAGES,
        "model": "gpt-4o",
        **KEPT,
        "metadata": {"k": "v"},
        "max_completion_tokens": 5,
    }


@pytest.mark.parametrize("name", NO_OPS)
def test_values_that_ask_for_nothing(name: str) -> None:
    assert OPENAI.request(chat(**{name: NO_OPS[name]})).messages == MESSAGES
    assert OPENAI.request(chat(**{name: None})).messages == MESSAGES


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("stream", True, "body.stream=True: not supported; answers come whole"),
        ("best_of", 2, "body.best_of=2: not supported; ask for several samples with n"),
        ("best_of", True, "body.best_of=True: not supported"),
        (
            "web_search_options",
            {"a": 1},
            "body.web_search_options={'a': 1}: not supported; nothing",
        ),
        ("max_token", 5, "body.max_token=5: not supported"),
        ("id", "b", "body.id='b': not supported"),
    ],
)
def test_unsupported_fields_are_named(name: str, value: Any, words: str) -> None:
    data = chat(**{name: value, "audio": {"voice": "alloy"}})
    assert words in complaint(data)
    assert "body.audio={'voice': 'alloy'}" in complaint(data)
    assert OPENAI.columns(data) == {"messages": MESSAGES}


def test_n_is_taken_and_carried() -> None:
    assert OPENAI.request(chat(n=3)).n == 3
    assert OPENAI.samples(chat(n=3), 1) == 3
    assert OPENAI.samples(chat(n=1), 2) == 1
    assert OPENAI.samples(chat(), 2) == 2
    assert OPENAI.columns(chat(n=1)) == {"messages": MESSAGES, "n": 1}
    assert complaint(chat(n=True)).startswith("n=True: should be a valid integer")


@pytest.mark.parametrize(
    ("data", "logprobs"),
    [
        (chat(logprobs=True), 0),
        (chat(logprobs=True, top_logprobs=0), 0),
        (chat(logprobs=True, top_logprobs=5), 5),
        (chat(logprobs=False, top_logprobs=0), None),
        (chat(logprobs=None), None),
        (envelope("/v1/completions", prompt="p", logprobs=0), 0),
        (envelope("/v1/completions", prompt="p", logprobs=5), 5),
        (envelope("/v1/completions", prompt="p", logprobs=False), None),
    ],
)
def test_each_endpoint_has_its_own_logprobs(data: dict[str, Any], logprobs: int | None) -> None:
    assert OPENAI.request(data).logprobs == logprobs


def test_logprobs_are_carried_as_they_were_asked_for() -> None:
    data = chat(logprobs=True, top_logprobs=2)
    columns = {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2}
    assert OPENAI.columns(data) == columns


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({**chat(), "method": "GET"}, "method='GET': should be 'POST'"),
        ({**chat(), "url": "/v1/embeddings"}, "url='/v1/embeddings': should be /v1/chat"),
        ({**chat(), "url": ["x"]}, "url=['x']"),
        ({"custom_id": "a", "body": {}}, "url=None"),
        ({**chat(), "body": [1]}, "body=[1]: should be an object"),
        ({**chat(), "extra": 1}, "extra: unknown field; allowed are custom_id, method, url, body"),
        (envelope(prompt="p"), "body.messages: missing; /v1/chat/completions needs it"),
        (envelope("/v1/completions", messages=MESSAGES), "body.prompt: missing"),
        (chat(prompt="p"), "exactly one of prompt and messages"),
        (envelope("/v1/completions", prompt=["p"]), "prompt=['p']"),
        (chat(temperature=3), "temperature=3"),
        (chat(logprobs=2), "body.logprobs=2: should be True or False in a chat"),
        (chat(logprobs=0), "body.logprobs=0: should be True or False in a chat"),
        (chat(top_logprobs=2), "body.top_logprobs=2: goes with body.logprobs=True"),
        (chat(logprobs=False, top_logprobs=2), "body.top_logprobs=2: goes with body.logprobs=True"),
        (chat(logprobs=True, top_logprobs=21), "logprobs=21: should be less than or equal to 20"),
        (envelope("/v1/completions", prompt="p", logprobs=True), "logprobs=True: should be"),
        (envelope("/v1/completions", prompt="p", logprobs=1, top_logprobs=1), "of a chat"),
        ({**chat(), "custom_id": ""}, "id=''"),
        ({}, "url=None"),
    ],
)
def test_malformed_rows(data: dict[str, Any], words: str) -> None:
    assert words in complaint(data)
    OPENAI.columns(data)  # must not raise


def test_a_row_may_lack_method_and_id() -> None:
    data = {"url": "/v1/completions", "body": {"prompt": "p"}}
    assert OPENAI.request(data).id is None


def test_duplicates_and_bad_rows_keep_what_id_they_can(tmp_path: Path) -> None:
    data = [chat(), chat(), {**chat(n=0), "custom_id": 7}, {**chat(), "custom_id": None}]
    path = tmp_path / "batch.jsonl"
    path.write_text("\n".join(map(json.dumps, data)))
    read = list(read_requests(path))
    assert [row.id for row in read] == ["a", "1", "7", "3"]
    assert [row.error is None for row in read] == [True, False, False, True]

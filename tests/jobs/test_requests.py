"""GenerationRequest: what makes a request, and what is refused in which words."""

from __future__ import annotations

import subprocess
import sys
import timeit
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import ValidationError

import jobs
from jobs.requests import GenerationRequest
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams

CHAT = [{"role": "user", "content": "hi"}]


def complaint(data: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        GenerationRequest.parse(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_prompt_is_a_request_with_the_sampling_defaults() -> None:
    request = GenerationRequest.parse({"prompt": "hi"})
    assert request.prompt == "hi"
    assert (request.id, request.messages, request.metadata) == (None, None, {})
    assert request.model_fields_set == {"prompt"}
    for name in SamplingParams.model_fields:
        assert getattr(request, name) == getattr(SamplingParams.of(), name)


def test_a_chat_is_a_request() -> None:
    messages = [
        {"role": role, "content": role, "name": "n"}
        for role in ("system", "user", "assistant", "tool", "developer")
    ]
    request = GenerationRequest.parse({"messages": messages})
    assert request.messages == messages
    assert request.prompt is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", ""),
        ([{"type": "text", "text": "a"}], "a"),
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}], "a b"),
        ([], ""),
    ],
)
def test_text_parts_are_joined(content: Any, text: str) -> None:
    request = GenerationRequest.parse({"messages": [{"role": "user", "content": content}]})
    assert request.messages == [{"role": "user", "content": text}]


@pytest.mark.parametrize("kind", ["image_url", "input_image", "video_url", "input_audio"])
def test_other_parts_are_not_supported_yet(kind: str) -> None:
    message = complaint({"messages": [{"role": "user", "content": [{"type": kind, kind: "x"}]}]})
    assert message.startswith("messages.0.content=")
    assert repr(kind) in message
    assert "images and video are not supported yet" in message


@pytest.mark.parametrize(
    ("part", "words"), [("a", "type None"), ({"type": "text"}, "'text'"), (None, "type None")]
)
def test_malformed_parts(part: Any, words: str) -> None:
    assert words in complaint({"messages": [{"role": "user", "content": [part]}]})


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "bot", "content": "x"}, "messages.0.role='bot': should be 'system', 'user'"),
        ({"content": "x"}, "messages.0.role: missing"),
        ({"role": "user"}, "messages.0.content: missing"),
        ({"role": "user", "content": None}, "messages.0.content: missing"),
        ({"role": "user", "content": 5}, "messages.0.content=5: should be a valid string"),
        ({"role": "user", "content": "x", "name": 5}, "messages.0.name=5"),
        ({"role": "assistant", "content": "x", "tool_calls": [1]}, "unknown key 'tool_calls'"),
        ("hi", "messages.0='hi': should be a valid dictionary"),
    ],
)
def test_malformed_messages(message: Any, words: str) -> None:
    assert words in complaint({"messages": [message]})


def test_nulls_in_a_message_are_not_given() -> None:
    message = {"role": "user", "content": "x", "name": None, "tool_calls": None}
    request = GenerationRequest.parse({"messages": [message]})
    assert request.messages == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("given", "id"), [("a", "a"), (7, "7"), (0, "0"), (-1, "-1"), ("x" * 512, "x" * 512)]
)
def test_ids(given: Any, id: str) -> None:
    assert GenerationRequest.parse({"prompt": "p", "id": given}).id == id


@pytest.mark.parametrize("given", ["", "x" * 513, True, 1.0, ["a"], {}])
def test_bad_ids(given: Any) -> None:
    assert complaint({"prompt": "p", "id": given}).startswith("id=")


@pytest.mark.parametrize("data", [{}, {"prompt": "a", "messages": CHAT}, {"prompt": None}])
def test_exactly_one_of_prompt_and_messages(data: dict[str, Any]) -> None:
    assert "exactly one of prompt and messages" in complaint(data)


@pytest.mark.parametrize(
    "data",
    [{"prompt": ""}, {"messages": []}, {"prompt": "", "messages": CHAT}, {"prompt": 5}],
)
def test_empty_is_an_error(data: dict[str, Any]) -> None:
    assert complaint(data).startswith(next(iter(data)))


def test_whitespace_is_a_prompt() -> None:
    assert GenerationRequest.parse({"prompt": " \n"}).prompt == " \n"


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("max_tokens", 0, "greater than or equal to 1"),
        ("max_tokens", "5", "valid integer"),
        ("max_tokens", True, "valid integer"),
        ("max_tokens", 5.0, "valid integer"),
        ("temperature", 2.5, "less than or equal to 2"),
        ("temperature", "0.5", "valid number"),
        ("top_p", 0, "greater than 0"),
        ("stop", 5, "tuple"),
        ("seed", -1, "greater than or equal to 0"),
        ("n", 0, "greater than or equal to 1"),
        ("n", 1025, "less than or equal to 1024"),
        ("n", True, "valid integer"),
        ("logprobs", 21, "less than or equal to 20"),
        ("logprobs", True, "valid integer"),
        ("stop_on_repetition", 1, "valid boolean"),
        ("metadata", "x", "dictionary"),
    ],
)
def test_messages_name_field_value_and_range(field: str, value: Any, allowed: str) -> None:
    message = complaint({"prompt": "p", field: value})
    assert message.startswith(f"{field}={value!r}: ")
    assert allowed in message


def test_unknown_fields_are_named_with_the_known_ones() -> None:
    message = complaint({"prompt": "p", "foo": None})
    assert message.startswith("foo: unknown field; allowed are ")
    assert "max_tokens" in message
    assert "messages" in message


def test_requests_are_frozen() -> None:
    request = GenerationRequest.parse({"prompt": "p"})
    with pytest.raises(ValidationError, match="frozen"):
        request.prompt = "q"


def test_any_mapping_is_parsed() -> None:
    assert GenerationRequest.parse(MappingProxyType({"prompt": "p"})).prompt == "p"


def test_given_fields_override_the_defaults_and_no_others() -> None:
    defaults = SamplingParams.of(max_tokens=7, temperature=0.0, stop=["x"], seed=3)
    request = GenerationRequest.parse({"prompt": "p", "temperature": 0.7, "stop": "y"})
    sampling = request.sampling_params(defaults)
    assert type(sampling) is SamplingParams
    assert sampling == SamplingParams.of(max_tokens=7, temperature=0.7, stop=["y"], seed=3)
    assert defaults == SamplingParams.of(max_tokens=7, temperature=0.0, stop=["x"], seed=3)


@pytest.mark.parametrize(
    ("data", "default", "samples"), [({}, 1, 1), ({}, 4, 4), ({"n": 1}, 4, 1), ({"n": None}, 4, 4)]
)
def test_samples_are_the_requests_own_or_the_default(
    data: dict[str, Any], default: int, samples: int
) -> None:
    assert GenerationRequest.parse({"prompt": "p", **data}).samples(default) == samples


def test_n_is_no_sampling_parameter() -> None:
    """Each sample is a request of its own to an engine."""
    assert "n" not in SamplingParams.model_fields


@pytest.mark.parametrize("name", SamplingParams.model_fields)
def test_null_is_not_given(name: str) -> None:
    defaults = SamplingParams.of(
        max_tokens=7, temperature=0.1, top_p=0.2, top_k=3, min_p=0.4, stop=["x"], seed=3
    )
    request = GenerationRequest.parse({"prompt": "p", name: None, "messages": None, "id": None})
    assert request.model_fields_set == {"prompt"}
    assert request.sampling_params(defaults) == defaults


def test_parsing_is_fast() -> None:
    data = {"prompt": "Write a haiku.", "id": "a", "temperature": 0.5}
    seconds = min(timeit.repeat(lambda: GenerationRequest.parse(data), number=2000, repeat=5))
    assert seconds / 2000 < 50e-6  # 4 µs on the machine it was written on


def test_a_producer_needs_no_mlx() -> None:
    script = (
        "import sys, jobs.columns, jobs.requests, jobs.sources\n"
        "heavy = {'mlx', 'mlx_lm', 'mlx_vlm', 'transformers', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    root = Path(jobs.__file__).parents[1]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)

"""Models that think: what they thought and what they answered are two texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.thinking_folder import (
    ANSWER,
    OFF_AT_FIRST,
    OPENED,
    THOUGHT,
    write_thinking_model,
)
from vllm_mlx.batching.text.thinking import ThinkingMarkers
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.models.loading import load_model

ASKED = [{"role": "user", "content": "why"}]
KINDS = {
    "the model opens it": ("think", None),
    "the template opens it": ("think", OPENED),
    "neither": ("think", OFF_AT_FIRST),
    "markers of two tokens": ("gemma", None),
    "channels": ("channels", None),
}
OTHERS = {"another marker": "abc", "another channel": None, "xtml": None}
"""Models that say something else behind a marker's first token, and what they think if they can't.

Kimi-K3's, `xtml`, opens its answer where it might have opened a thought.
"""
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, MLXLanguageModel]]:
    folder = tmp_path_factory.mktemp("thinking")
    made = {
        name: MLXLanguageModel(write_thinking_model(folder / str(at), *kind))
        for at, (name, kind) in enumerate(KINDS.items())
    }
    made |= {name: MLXLanguageModel(write_thinking_model(folder / name, name)) for name in OTHERS}
    yield made
    for each in made.values():
        each.unload()


@pytest.mark.parametrize("start", ["the model opens it", "the template opens it"])
def test_a_thought_is_no_text(models: dict[str, MLXLanguageModel], start: str) -> None:
    output = models[start].chat(ASKED, temperature=0)
    assert (output.reasoning, output.text) == (THOUGHT, ANSWER)
    assert output.reasoning_tokens == len(THOUGHT)
    markers = 2 if start == "the model opens it" else 1
    assert output.completion_tokens == markers + len(THOUGHT) + len("\n") + len(ANSWER) + 1
    assert output.finish_reason == "stop"


def test_without_a_thought_nothing_is_reasoning(models: dict[str, MLXLanguageModel]) -> None:
    output = models["neither"].chat(ASKED, temperature=0)
    assert (output.reasoning, output.reasoning_tokens, output.text) == (None, 0, ANSWER)


def test_a_marker_may_be_several_tokens(models: dict[str, MLXLanguageModel]) -> None:
    output = models["markers of two tokens"].chat(ASKED, temperature=0)
    assert (output.reasoning, output.text) == (THOUGHT, ANSWER)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "neither"])
def test_a_thought_cut_off_is_no_text(models: dict[str, MLXLanguageModel], name: str) -> None:
    for most in range(1, len(THOUGHT)):
        output = models[name].chat(ASKED, max_tokens=most, temperature=0)
        assert output.text == ""
        assert THOUGHT.startswith(output.reasoning or "")
        assert output.finish_reason == "length"
        assert output.reasoning_tokens <= most


@pytest.mark.parametrize("name", KINDS)
def test_a_stream_keeps_the_two_apart(models: dict[str, MLXLanguageModel], name: str) -> None:
    whole = models[name].chat(ASKED, temperature=0)
    chunks = list(models[name].stream_chat(ASKED, temperature=0))
    assert "".join(chunk.reasoning or "" for chunk in chunks) == (whole.reasoning or "")
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert not any(chunk.reasoning and chunk.text for chunk in chunks)
    assert chunks[-1].reasoning_tokens == whole.reasoning_tokens


@pytest.mark.parametrize(("stop", "text"), [("c", ANSWER), ("y", "x")])
def test_stop_strings_end_the_answer_only(
    models: dict[str, MLXLanguageModel], stop: str, text: str
) -> None:
    output = models["the model opens it"].chat(ASKED, temperature=0, stop=stop)
    assert (output.reasoning, output.text) == (THOUGHT, text)


def test_a_marker_in_a_users_message_opens_no_thought(models: dict[str, MLXLanguageModel]) -> None:
    asked = [{"role": "user", "content": "what is <think>"}]
    output = models["the model opens it"].chat(asked, temperature=0, max_tokens=4)
    assert output.reasoning == "abc"


def test_a_prompt_may_have_begun_the_thought(models: dict[str, MLXLanguageModel]) -> None:
    output = models["neither"].generate("why?<think>abc", temperature=0)
    assert (output.reasoning, output.text) == (THOUGHT[3:], ANSWER)


@pytest.mark.parametrize(
    ("start", "options", "thinks"),
    [
        ("the model opens it", {}, True),
        ("the model opens it", {"thinking": "on"}, True),
        ("the model opens it", {"thinking": "off"}, False),
        ("the model opens it", {"thinking": False}, False),
        ("the model opens it", {"chat_template_kwargs": {"enable_thinking": False}}, False),
        ("neither", {}, False),  # as its template has it, not as mlx-lm would
        ("neither", {"thinking": "on"}, True),
        ("neither", {"chat_template_kwargs": {"thinking": True}, "thinking": True}, True),
    ],
)
def test_thinking_is_switched_by_what_the_template_reads(
    models: dict[str, MLXLanguageModel], start: str, options: Any, thinks: bool
) -> None:
    output = models[start].chat(ASKED, temperature=0, **options)
    assert (output.reasoning, output.text) == (THOUGHT if thinks else None, ANSWER)


@pytest.mark.parametrize(
    ("start", "options", "said"),
    [
        ("the template opens it", {"thinking": "off"}, "has no switch for it"),
        ("channels", {"thinking": "on"}, "has no switch for it"),
        (
            "neither",
            {"chat_template_kwargs": {"enable_thinking": True}},
            "leave it out; it reads thinking",
        ),
        (
            "neither",
            {"thinking": "off", "chat_template_kwargs": {"thinking": True}},
            "give one of them",
        ),
        ("neither", {"chat_template_kwargs": {"tools": []}}, "names that a chat template reads"),
        ("neither", {"thinking": "maybe"}, "'on' or 'off'"),
    ],
)
def test_what_a_template_does_not_read_is_refused(
    models: dict[str, MLXLanguageModel], start: str, options: Any, said: str
) -> None:
    with pytest.raises(InvalidRequestError, match=said) as error:
        models[start].chat(ASKED, **options)
    assert next(iter(options)) in str(error.value)


@pytest.mark.parametrize("options", [{"thinking": "on"}, {"chat_template_kwargs": {"a": 1}}])
def test_a_plain_prompt_has_no_template(models: dict[str, MLXLanguageModel], options: Any) -> None:
    with pytest.raises(InvalidRequestError, match="continued as it stands"):
        models["the model opens it"].generate("why", **options)


@pytest.mark.parametrize("name", ["the model opens it", "the template opens it"])
def test_a_thought_is_closed_at_the_end_of_its_budget(
    models: dict[str, MLXLanguageModel], name: str
) -> None:
    for budget in (0, 1, 7, len(THOUGHT) - 1, len(THOUGHT), 1000):
        output = models[name].chat(ASKED, temperature=0, thinking_budget=budget)
        assert (output.reasoning, output.text) == (THOUGHT[:budget], ANSWER)
        assert output.reasoning_tokens == min(budget, len(THOUGHT))
        assert output.finish_reason == "stop"


def test_what_closes_a_channel_opens_that_of_the_answer(
    models: dict[str, MLXLanguageModel],
) -> None:
    output = models["channels"].chat(ASKED, temperature=0, thinking_budget=3)
    assert (output.reasoning, output.text) == (THOUGHT[:3], THOUGHT)  # what follows <|message|>


@pytest.mark.parametrize(
    ("name", "budget"),
    # The tiny model of channels never leaves its first one by itself.
    [(name, budget) for name in KINDS for budget in (None, 3) if budget or name != "channels"],
)
def test_a_constraint_begins_behind_the_thought(
    models: dict[str, MLXLanguageModel], name: str, budget: int | None
) -> None:
    output = models[name].chat(
        ASKED,
        temperature=0,
        thinking_budget=budget,
        structured_outputs={"choice": ["hello", "xyz you", "bye"]},
    )
    thought = None if name == "neither" else THOUGHT[:budget]
    lost = 1 if name == "markers of two tokens" and budget else 0  # its line break is a token, too
    assert output.reasoning == (thought[: len(thought) - lost] if thought else thought)
    assert output.text in ("hello", "xyz you", "bye")
    assert output.complete


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"choice": ["q", "xy"]}, {"q", "xy"}),
        ({"regex": "z[xy]"}, {"zx", "zy"}),
        ({"json": {"type": "integer", "minimum": 0, "maximum": 9}}, set("0123456789")),
    ],
)
def test_a_marker_that_has_begun_goes_on_as_it_has_to(
    models: dict[str, MLXLanguageModel], name: str, outputs: Any, text: set[str]
) -> None:
    output = models[name].chat(ASKED, temperature=0, max_tokens=20, structured_outputs=outputs)
    assert output.text in text
    assert (output.reasoning, output.finish_reason, output.complete) == (OTHERS[name], "stop", True)


@pytest.mark.parametrize("name", OTHERS)
def test_a_call_that_is_required_has_the_header_of_an_answer(
    models: dict[str, MLXLanguageModel], name: str
) -> None:
    output = models[name].chat(
        ASKED, temperature=0, tools=[TOOL], tool_choice="required", parallel_tool_calls=False
    )
    assert output.tool_calls
    assert (output.text, output.tool_calls[0].function.name) == ("", "now")


def test_a_free_answer_has_what_channels_it_likes(models: dict[str, MLXLanguageModel]) -> None:
    output = models["another channel"].chat(ASKED, temperature=0)
    assert output.text == f"<|channel|>commentary<|message|>{ANSWER}"


def test_an_answer_that_ends_in_its_thought_is_not_complete(
    models: dict[str, MLXLanguageModel],
) -> None:
    labels = {"choice": ["hello"]}
    output = models["channels"].chat(ASKED, temperature=0, structured_outputs=labels)
    assert (output.text, output.reasoning, output.complete) == ("", THOUGHT, False)
    assert output.finish_reason == "stop"


def test_an_answer_may_name_markers(models: dict[str, MLXLanguageModel]) -> None:
    output = models["the model opens it"].chat(
        ASKED, temperature=0, structured_outputs={"choice": ["xyz<think>x</think>"]}
    )
    assert (output.text, output.reasoning) == ("xyz<think>x</think>", THOUGHT)


def test_a_budget_needs_markers(language_model: MLXLanguageModel) -> None:
    with pytest.raises(InvalidRequestError, match="thinking_budget=5: the tokenizer of smollm2"):
        language_model.chat(ASKED, thinking_budget=5)


def test_logprobs_are_those_of_all_tokens(models: dict[str, MLXLanguageModel]) -> None:
    output = models["the model opens it"].chat(ASKED, temperature=0, logprobs=0)
    assert output.logprobs is not None
    assert len(output.logprobs) == output.completion_tokens
    assert [each.token for each in output.logprobs[:2]] == ["<think>", "a"]


def test_markers_around_an_answer_are_no_text(tmp_path: Path) -> None:
    """Kimi-K3's, which stand around an answer whether it follows a thought or not."""
    with MLXLanguageModel(write_thinking_model(tmp_path / "m", "xtml")) as model:
        markers = ThinkingMarkers.of(model.tokenizer)
        assert markers
        assert model.tokenizer.decode(markers.start) == "<|open|>think<|sep|>"
        output = model.chat(ASKED, temperature=0, max_tokens=12)
        pieces = [chunk.text for chunk in model.stream_chat(ASKED, temperature=0, max_tokens=12)]

    assert (output.text, output.reasoning) == ("xyzxyz", None)
    assert output.completion_tokens == 12
    assert "".join(pieces) == "xyzxyz"


def test_markers_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    """A tokenizer with no markers has no thoughts, and its rows take the shorter way."""
    assert ThinkingMarkers.of(load_model("smollm2-135m").tokenizer) is None
    channels = load_model(write_thinking_model(tmp_path / "m", "channels")).tokenizer
    markers = ThinkingMarkers.of(channels)
    assert markers
    assert channels.decode(markers.start) == "<|channel|>analysis<|message|>"
    assert channels.decode(markers.answer) == "<|channel|>final<|message|>"
    assert channels.decode(markers.closing) == (
        "<|end|><|start|>assistant<|channel|>final<|message|>"
    )

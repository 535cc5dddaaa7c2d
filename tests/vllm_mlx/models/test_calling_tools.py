"""Models that are given tools: what they are shown, and what they call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.thinking_folder import CHATS, write_thinking_model
from vllm_mlx.engine import BatchedEngine
from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.models import MLXLanguageModel
from vllm_mlx.outputs import CalledFunction

ASKED = [{"role": "user", "content": "Weather in Łódź?"}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Łódź", "Rome"]}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": CITY}}
    for name in ("weather", "time")
]
WEATHER = CalledFunction("weather", '{"city": "Łódź"}')
NAMED = {"type": "function", "function": {"name": "time"}}


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLXLanguageModel]:
    """A model that calls `weather`, with a template that shows tools."""
    folder = tmp_path_factory.mktemp("calls") / "tiny"
    with MLXLanguageModel(write_thinking_model(folder, "calls")) as model:
        yield model


def test_a_call_is_no_text(caller: MLXLanguageModel) -> None:
    output = caller.chat(ASKED, temperature=0, tools=TOOLS)
    assert (output.text, output.finish_reason) == ("I look.", "stop")
    assert output.tool_calls
    assert [call.function for call in output.tool_calls] == [WEATHER]
    assert output.tool_calls == caller.chat(ASKED, temperature=0, tools=TOOLS).tool_calls


def test_without_tools_it_is_text(caller: MLXLanguageModel) -> None:
    for options in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        output = caller.chat(ASKED, temperature=0, **options)
        assert output.tool_calls is None
        assert "<tool_call>" in output.text


def test_the_template_shows_the_tools_unless_none_may_be_called(caller: MLXLanguageModel) -> None:
    shown, hidden, without = (
        caller.chat(ASKED, 1, tools=tools, tool_choice=choice).prompt_tokens
        for tools, choice in ((TOOLS, "auto"), (TOOLS, "none"), (None, None))
    )
    assert shown > hidden == without


def test_a_call_and_its_result_go_back_to_the_model(caller: MLXLanguageModel) -> None:
    output = caller.chat(ASKED, temperature=0, tools=TOOLS)
    assert output.tool_calls
    (call,) = output.tool_calls
    function = {"name": call.function.name, "arguments": call.function.arguments}
    answer: dict[str, Any] = {"role": "assistant", "content": output.text}
    answer["tool_calls"] = [{"id": call.id, "type": call.type, "function": function}]
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    again = caller.chat([*ASKED, answer, result], temperature=0, tools=TOOLS)
    assert again.tool_calls
    assert again.tool_calls[0].id != call.id


def test_a_stream_shows_no_call(caller: MLXLanguageModel) -> None:
    chunks = list(caller.stream_chat(ASKED, temperature=0, tools=TOOLS))
    assert "".join(chunk.text for chunk in chunks) == "I look."
    *others, last = chunks
    assert not any(chunk.tool_calls for chunk in others)
    assert last.tool_calls
    assert last.tool_calls[0].function == WEATHER


async def test_an_engine_takes_tools(caller: MLXLanguageModel) -> None:
    async with BatchedEngine(caller.model_name) as engine:
        output = await engine.chat(ASKED, temperature=0, tools=TOOLS)
    assert output.tool_calls
    assert output.tool_calls[0].function == WEATHER


def test_a_call_that_has_to_be_made_is_made(language_model: MLXLanguageModel) -> None:
    output = language_model.chat(ASKED, 96, temperature=0, tools=TOOLS, tool_choice="required")
    assert output.tool_calls, output
    assert (output.text, output.finish_reason, output.complete) == ("", "stop", True)
    for call in output.tool_calls:
        assert call.function.name in ("weather", "time")
        assert json.loads(call.function.arguments)["city"] in ("Łódź", "Rome")


def test_a_function_that_is_named_is_called_once(tiny_model: MLXLanguageModel) -> None:
    for seed in range(3):
        output = tiny_model.chat(ASKED, 400, seed=seed, tools=TOOLS, tool_choice=NAMED)
        assert output.tool_calls
        assert [call.function.name for call in output.tool_calls] == ["time"]


def test_a_call_that_is_cut_is_text(tiny_model: MLXLanguageModel) -> None:
    output = tiny_model.chat(ASKED, 3, temperature=0, tools=TOOLS, tool_choice="required")
    assert output.tool_calls is None
    assert output.text.startswith("[")
    assert (output.finish_reason, output.complete) == ("length", False)


def test_one_call_where_several_may_not_be(tiny_model: MLXLanguageModel) -> None:
    calls = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    for seed in range(3):
        output = tiny_model.chat(ASKED, 400, seed=seed, **calls)
        assert output.tool_calls
        assert len(output.tool_calls) == 1


def test_a_form_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    template = (
        "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}" + CHATS + ":{% endif %}"
    )
    with MLXLanguageModel(write_thinking_model(tmp_path / "tiny", "calls", template)) as model:
        with pytest.raises(InvalidRequestError, match="no parser for; with tool_choice 'required'"):
            model.chat(ASKED, tools=TOOLS)
        assert model.chat(ASKED, 4, tools=TOOLS, tool_choice="none").text


def test_a_plain_prompt_has_no_tools(language_model: MLXLanguageModel) -> None:
    with pytest.raises(InvalidRequestError, match="tools: no chat template reads it"):
        language_model.generate("hi", tools=TOOLS)

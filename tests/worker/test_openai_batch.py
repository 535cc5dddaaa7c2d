"""A batch file made with OpenAI's own types is answered, and its output read with them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from openai import pydantic_function_tool
from openai.types import Completion
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat.chat_completion_message_function_tool_call_param import Function
from openai.types.chat.chat_completion_named_tool_choice_param import (
    ChatCompletionNamedToolChoiceParam,
)
from openai.types.chat.chat_completion_named_tool_choice_param import Function as Chosen
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import BaseModel

from tests.helpers.command_line import cli
from tests.helpers.thinking_folder import write_thinking_model

USER = ChatCompletionUserMessageParam(role="user", content="Weather in Łódź?")
TOLD = [
    USER,
    ChatCompletionAssistantMessageParam(
        role="assistant",
        content=None,
        tool_calls=[
            ChatCompletionMessageFunctionToolCallParam(
                id="call_1",
                type="function",
                function=Function(name="weather", arguments='{"city": "Łódź"}'),
            )
        ],
    ),
    ChatCompletionToolMessageParam(role="tool", tool_call_id="call_1", content="rain"),
]
REFUSED = [USER, ChatCompletionAssistantMessageParam(role="assistant", refusal="No."), USER]
RULES: list[ChatCompletionMessageParam] = [
    ChatCompletionDeveloperMessageParam(role="developer", content="Be brief"),
    ChatCompletionUserMessageParam(
        role="user", content=[ChatCompletionContentPartTextParam(type="text", text="hi")]
    ),
]


def asked(messages: list[ChatCompletionMessageParam], **more: Any) -> Mapping[str, Any]:
    return CompletionCreateParamsNonStreaming(
        model="gpt-4o", messages=messages, max_completion_tokens=4, temperature=0.5, **more
    )


class City(BaseModel):
    """A city."""

    name: Literal["Łódź", "Rome"]


class Weather(BaseModel):
    """The weather in a city."""

    city: City


TOOLS = [pydantic_function_tool(Weather, name="weather")]
NAMED = ChatCompletionNamedToolChoiceParam(type="function", function=Chosen(name="weather"))


BODIES = {
    "called": asked([USER], tools=TOOLS) | {"temperature": 0, "max_completion_tokens": 30},
    "named": asked([USER], tools=TOOLS, tool_choice=NAMED) | {"max_completion_tokens": 600},
    "no tools": asked([USER], tools=[], tool_choice="none", parallel_tool_calls=True),
    "developer": asked(RULES, logprobs=True, top_logprobs=2),
    "history": asked(TOLD),
    "refusal": asked(REFUSED, n=3, seed=5),
    "wrong": asked(RULES) | {"temperature": 9},
}


def line(custom_id: str, body: Mapping[str, Any], url: str = "/v1/chat/completions") -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has ended, and of what was exported of it."""
    folder = tmp_path_factory.mktemp("batch")
    model = write_thinking_model(folder / "tiny", "calls")
    lines = [line(name, body) for name, body in BODIES.items()]
    lines.append(line("continued", {"prompt": "Once", "max_tokens": 4}, "/v1/completions"))
    (folder / "batch.jsonl").write_text("\n".join(lines))
    words = ["run", folder / "batch.jsonl", "--model", model, "--out", folder / "answers"]
    command = [sys.executable, "-m", "worker.cli", *map(str, words), "--skip-bad-rows"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    exported = cli("export", folder / "answers", "--format", "openai")
    assert exported.exit_code == 0, exported.stderr
    return folder


def lines_of(path: Path) -> dict[str, Any]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["custom_id"]: line for line in found}


def test_every_request_is_answered_in_openais_form(batch: Path) -> None:
    output = lines_of(batch / "answers_output.jsonl")
    assert output.keys() == {*BODIES, "continued"} - {"wrong"}
    for name in ("developer", "history", "refusal"):
        answer = ChatCompletion.model_validate(output[name]["response"]["body"], strict=True)
        assert answer.usage
        samples = BODIES[name].get("n", 1)
        assert [choice.index for choice in answer.choices] == list(range(samples))
        assert 0 < answer.usage.completion_tokens <= 4 * samples
        for choice in answer.choices:
            assert choice.message.role == "assistant"
            assert choice.finish_reason in ("stop", "length")
    told = ChatCompletion.model_validate(output["developer"]["response"]["body"])
    assert told.usage
    assert told.choices[0].logprobs
    tokens = told.choices[0].logprobs.content
    assert tokens
    assert [len(each.top_logprobs) for each in tokens] == [2] * told.usage.completion_tokens
    continued = output["continued"]["response"]["body"]
    assert Completion.model_validate(continued, strict=True).choices[0].index == 0


@pytest.mark.parametrize("name", ["called", "named"])
def test_a_tool_is_called(batch: Path, name: str) -> None:
    line = lines_of(batch / "answers_output.jsonl")[name]
    (choice,) = ChatCompletion.model_validate(line["response"]["body"], strict=True).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == ("I look." if name == "called" else None)
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "weather"
    if name == "named":
        assert Weather.model_validate_json(call.function.arguments).city.name in ("Łódź", "Rome")
    else:
        assert json.loads(call.function.arguments) == {"city": "Łódź"}


def test_the_dataset_has_the_calls(batch: Path) -> None:
    rows = pl.read_parquet(batch / "answers" / "data" / "*.parquet").to_dicts()
    calls = {row["id"]: row["tool_calls"] for row in rows}
    assert calls["no tools"] is None
    (call,) = calls["called"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Łódź"}'}


def test_a_bad_request_is_in_the_error_file(batch: Path) -> None:
    errors = lines_of(batch / "answers_error.jsonl")
    assert errors.keys() == {"wrong"}
    assert errors["wrong"]["response"] is None
    assert errors["wrong"]["error"]["code"] == "InvalidRequestError"
    assert "temperature=9" in errors["wrong"]["error"]["message"]

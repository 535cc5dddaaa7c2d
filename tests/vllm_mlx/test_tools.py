"""Tools and choices of tools, as requests give them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.tools import as_shown

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"$ref": "#/$defs/Unit"}},
            "required": ["city"],
            "$defs": {"Unit": {"enum": ["C", "F"]}},
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
HALF = "half \ud800"
UNHELD = {"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}
NAMED = {"type": "function", "function": {"name": "now"}}


def complaint(**options: Any) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams.of(**options)
    return str(caught.value)


def test_tools_are_kept_as_they_are_given() -> None:
    params = SamplingParams.of(tools=[WEATHER, NOW])
    assert params.tools == (WEATHER, NOW)
    assert SamplingParams.of(tools=json.dumps([WEATHER, NOW])) == params
    assert SamplingParams.model_validate_json(params.model_dump_json()) == params


def test_nothing_is_no_tools() -> None:
    for nothing in ([], "[]", None):
        assert SamplingParams.of(tools=nothing, tool_choice="none").tools is None
    nulls = {"type": "function", "function": {"name": "now", "parameters": None, "strict": None}}
    assert SamplingParams.of(tools=[nulls]).tools == (NOW,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tools": [{}]}, "tools[0].type: missing"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "a"}}]},
            ": type='custom': should be 'function'; no other tools are run",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function: missing"),
        (
            {"tools": [{"type": "function", "name": "now", "parameters": {}}]},
            ": name, parameters: should stand within function: {",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "paramz": {}}}]},
            "tools[0].function.paramz: unknown field; allowed are name, description, parameters, "
            "strict",
        ),
        (
            {"tools": [{**NOW, "strikt": True}]},
            "tools[0].strikt: unknown field; allowed are type, function",
        ),
        ({"tools": [WEATHER, NOW, WEATHER]}, "tools: there are several of the name 'weather'"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name=''"),
        ({"tools": {"now": {}}}, "tools="),
        ({"tools": "now"}, "tools='now': not JSON"),
        (
            {"tools": [NOW, {"type": "function", "function": {"name": "a", "description": HALF}}]},
            f"tools[1].function.description={HALF!r}: holds '\\ud800', half a surrogate pair",
        ),
        (
            {"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": HALF}}},
            f"tool_choice.function.name={HALF!r}: holds '\\ud800', half a surrogate pair",
        ),
        (
            {"chat_template_kwargs": {"a": [HALF]}},
            "chat_template_kwargs.a[0]='half \\ud800': holds",
        ),
        ({"tools": [NOW], "tool_choice": "maybe"}, "should be auto, none, required or"),
        (
            {"tools": [NOW], "tool_choice": {"type": "function"}},
            "tool_choice.function: missing",
        ),
        (
            {"tools": [NOW], "tool_choice": {"type": "function", "function": {"nam": "now"}}},
            "tool_choice.function.name: missing; tool_choice.function.nam: unknown field, did you "
            "mean name?",
        ),
        (
            {"tools": [NOW], "tool_choice": {"type": "function", "name": "now"}},
            "name: should stand within function: {",
        ),
        ({"tools": [NOW], "tool_choice": {"type": "allowed_tools"}}, "type should be 'function'"),
        ({"tool_choice": "required"}, "tool_choice='required': goes with tools"),
        ({"tools": [WEATHER], "tool_choice": NAMED}, "there is no tool 'now', but weather"),
        ({"tools": [NOW], "structured_outputs": {"json_object": True}}, "leave one out"),
        ({"tools": [NOW], "tool_choice": "required", "stop": "x"}, "ends where tool_choice says"),
        (
            {"tools": [UNHELD], "tool_choice": "required"},
            "the parameters of 'f': not supported: not; leave it out",
        ),
    ],
)
def test_what_is_wrong_is_named(options: dict[str, Any], words: str) -> None:
    found = complaint(**options)
    assert words in found
    assert not [word for word in ("literal", "Chosen", "max_tokens") if word in found]


def test_structured_outputs_and_tools_that_are_not_called() -> None:
    held = {"json_object": True}
    params = SamplingParams.of(tools=[NOW], tool_choice="none", structured_outputs=held)
    assert params.held() is params


def test_a_call_that_has_to_be_made_is_what_the_answer_is_held_to() -> None:
    params = SamplingParams.of(tools=[WEATHER, NOW], tool_choice="required")
    held = params.held().structured_outputs
    assert held
    schema = json.loads(str(held.value))
    assert "maxItems" not in schema
    assert [call["properties"]["name"]["const"] for call in schema["items"]["anyOf"]] == [
        "weather",
        "now",
    ]
    assert schema["$defs"]["tool0"]["properties"]["unit"] == {"$ref": "#/$defs/tool0/$defs/Unit"}
    assert schema["$defs"]["tool1"] == {"type": "object", "additionalProperties": False}
    for choice, parallel in ((NAMED, True), ("required", False)):
        one = SamplingParams.of(
            tools=[WEATHER, NOW], tool_choice=choice, parallel_tool_calls=parallel
        ).held()
        assert one.structured_outputs
        assert json.loads(str(one.structured_outputs.value))["maxItems"] == 1
    for choice in ("auto", "none", None):
        free = SamplingParams.of(tools=[WEATHER], tool_choice=choice)
        assert free.held() is free


def test_templates_are_shown_parameters_always() -> None:
    params = SamplingParams.of(tools=[WEATHER, NOW])
    weather, now = as_shown(params.tools, None)
    assert weather == WEATHER
    assert now["function"]["parameters"] == {"type": "object", "properties": {}}
    assert as_shown(params.tools, "none") == []

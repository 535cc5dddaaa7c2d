"""Calls of tools in answers, in the forms that mlx-lm's parsers know."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.batching.text.tool_calls import BareCalls, Calls, MarkedCalls, with_ids
from vllm_mlx.outputs import CalledFunction, ToolCall

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": PARAMETERS}}
    for name in ("weather", "time")
]
WEATHER = CalledFunction("weather", '{"city": "Łódź"}')
TIME = CalledFunction("time", '{"city": "Rome"}')


def marked(parser: str) -> MarkedCalls:
    """What a model of that parser writes, as mlx-lm reads it."""
    module = importlib.import_module(f"mlx_lm.tool_parsers.{parser}")
    return MarkedCalls(module.tool_call_start, module.tool_call_end, module.parse_tool_call, TOOLS)


JSON = marked("json_tools")
BARE = BareCalls(frozenset({"weather", "time"}))
ONE = '<tool_call>\n{"name": "weather", "arguments": {"city": "Łódź"}}\n</tool_call>'
OTHER = '<tool_call>{"name": "time", "arguments": {"city": "Rome"}}</tool_call>'


@pytest.mark.parametrize(
    ("calls", "text", "said", "called"),
    [
        (JSON, ONE, "", [WEATHER]),
        (JSON, f"I look.\n{ONE}\n{OTHER}", "I look.", [WEATHER, TIME]),
        (JSON, f"{ONE}\nDone.", "\nDone.", [WEATHER]),
        (JSON, ONE.removesuffix("</tool_call>"), "", [WEATHER]),  # the end token ends it, too
        (JSON, " No call. \n", " No call. \n", []),
        (
            marked("mistral"),
            'So:[TOOL_CALLS]weather[ARGS]{"city": "Łódź"}[TOOL_CALLS]time[ARGS]{"city": "Rome"}',
            "So:",
            [WEATHER, TIME],
        ),
        (
            marked("pythonic"),
            "<|tool_call_start|>[weather(city='Łódź'), time(city='Rome')]<|tool_call_end|>",
            "",
            [WEATHER, TIME],
        ),
        (
            marked("qwen3_coder"),
            "<tool_call>\n<function=weather>\n<parameter=city>\nŁódź\n</parameter>\n</function>\n"
            "</tool_call>",
            "",
            [WEATHER],
        ),
        (BARE, '{"name": "weather", "parameters": {"city": "Łódź"}}', "", [WEATHER]),
        (
            BARE,
            '<|python_tag|>{"name": "weather", "parameters": {"city": "Łódź"}}; '
            '{"name": "time", "parameters": {"city": "Rome"}}',
            "",
            [WEATHER, TIME],
        ),
        (BARE, '[{"name": "time", "arguments": {"city": "Rome"}}]\n', "", [TIME]),
    ],
)
def test_calls_are_found(calls: Calls, text: str, said: str, called: list[Any]) -> None:
    found, made = calls.split(text)
    assert found == said
    assert [call.function for call in made] == called


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        (JSON, '<tool_call>{"name": "weather", "arguments": {"ci'),
        (JSON, "<tool_call></tool_call>"),
        (JSON, "<tool_call>[]</tool_call>"),
        (JSON, '<tool_call>"weather"</tool_call>'),
        (JSON, '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        (JSON, '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>'),
        (marked("pythonic"), "<|tool_call_start|>weather<|tool_call_end|>"),
        (BARE, '{"name": "weather", "parameters": {"city"'),
        (BARE, '{"name": "Ada", "parameters": {}}'),
        (BARE, '{"answer": 4}'),
        (BARE, "It is 4."),
        (BARE, "4"),
        (BARE, "{}"),
    ],
)
def test_what_is_no_call_stays_text(calls: Calls, text: str) -> None:
    assert calls.split(text) == (text, [])


def test_a_broken_call_beside_a_good_one_stays_text() -> None:
    text, made = JSON.split(f"<tool_call>nothing</tool_call>{OTHER}")
    assert (text, [call.function for call in made]) == ("<tool_call>nothing</tool_call>", [TIME])


def test_a_models_own_id_is_kept() -> None:
    kimi = marked("kimi_k2")
    text = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
        '<|tool_call_argument_begin|>{"city": "Łódź"}<|tool_call_end|><|tool_calls_section_end|>'
    )
    _, made = kimi.split(text)
    assert with_ids(made, [1]) == (ToolCall("functions.weather:0", WEATHER),)


def test_ids_are_those_of_the_prompt_and_the_calls() -> None:
    calls = [ToolCall("", WEATHER), ToolCall("", WEATHER)]
    first, second = with_ids(calls, [1, 2])
    assert first.id != second.id
    assert (first, second) == with_ids(calls, [1, 2])
    assert with_ids(calls, [1, 3])[0].id != first.id
    assert with_ids([], [1]) == ()


PIECES = ["<tool_call>", "</tool_call>", "<tool", OTHER, " ", "\n", "a", "<", "{", "4"]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.sampled_from([JSON, BARE]))
def test_what_a_stream_shows_is_the_beginning_of_the_text(text: str, calls: Calls) -> None:
    whole, _ = calls.split(text)
    shown = [text[:end][: calls.certain(text[:end])] for end in range(len(text) + 1)]
    for before, after in zip(shown, [*shown[1:], whole], strict=True):
        assert after.startswith(before)

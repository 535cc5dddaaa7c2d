"""Chats in the form that a chat template takes: what is not the same in all templates."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from vllm_mlx.batching.loaded_model import template_errors
from vllm_mlx.batching.prompts.chat_form import ChatForm
from vllm_mlx.errors import ChatTemplateError

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
# As Qwen2.5 and Llama have it, as Qwen3 does, DeepSeek's older ones, Mistral's, and in XML.
AS_JSON = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "{% endfor %}{% endfor %}"
)
ONLY_WITHOUT_CONTENT = (
    "{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}"
    "{% for c in m.tool_calls %}<call>{{ c.function.name + ' ' + c.function.arguments }}"
    "{% endfor %}{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
SHORT_IDS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}{{ raise_exception('length 9') }}"
    "{% endif %}{{ c.function | tojson }}{{ c.id }}{% endfor %}"
    "{% if m.role == 'tool' %}{{ m.tool_call_id }}{% endif %}{% endfor %}"
)
IN_XML = (
    "{% for m in messages %}<{{ m.role }} {{ m.name }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<{{ c.function.name }}>"
    "{% for k, v in c.function.arguments.items() %}<{{ k }}>{{ v }}{% endfor %}"
    "{% endfor %}{% endfor %}"
)
NAMES_DEVELOPERS = (
    "{% for m in messages %}{% if m.role in ('system', 'developer') %}<rules>{% endif %}"
    "{{ m.content }}{% endfor %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('role ' + m.role) }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
THINKS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}({{ m.thinking }}){% endfor %}"

ID = "call_abc123"
CALL = {"id": ID, "type": "function", "function": {"name": "weather", "arguments": {"in": "Łódź"}}}
HISTORY = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": ID, "content": "rain"},
]


def fitted(template: str, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> str:
    """What the template writes of messages."""

    def write(messages: Any, arguments: Any) -> str:
        with template_errors():
            return str(render_jinja_template([messages], **arguments, chat_template=template)[0][0])

    given = json.dumps(messages)
    form = ChatForm(write)
    arguments = {"tools": tools} if tools and form.takes_tools else {}
    text = write(form.fit(messages, tools or ()), arguments)
    assert json.dumps(messages) == given
    return text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            AS_JSON,
            '<user>Weather?<assistant>{"name": "weather", "arguments": {"in": "Łódź"}}<tool>rain',
        ),
        (ONLY_WITHOUT_CONTENT, '<user>Weather?<call>weather {"in": "Łódź"}<tool>rain'),
        (IN_XML, "<user >Weather?<assistant ><weather><in>Łódź<tool weather>rain"),
        (
            PLAIN,
            '<user>Weather?<assistant><tool_call>\n{"name": "weather", "arguments": {"in": "Łódź"}}'
            "\n</tool_call><user><tool_response>\nrain\n</tool_response>",
        ),
        (
            STRICT,
            '<user>Weather?<assistant><tool_call>\n{"name": "weather", "arguments": {"in": "Łódź"}}'
            "\n</tool_call><user><tool_response>\nrain\n</tool_response>",
        ),
    ],
)
def test_calls_and_results(template: str, text: str) -> None:
    assert fitted(template, HISTORY) == text


def test_ids_become_as_short_as_the_template_wants_them() -> None:
    before, call, result = fitted(SHORT_IDS, HISTORY).replace("<tool>rain", "|").partition("|")
    assert call
    assert len(result) == 9
    assert before.endswith(result)
    own = {**CALL, "id": "a1b2c3d4e"}
    kept = [HISTORY[0], {**HISTORY[1], "tool_calls": [own]}]
    assert fitted(SHORT_IDS, kept).endswith("a1b2c3d4e")


def test_text_beside_calls_is_kept() -> None:
    said = {**HISTORY[1], "content": "I look."}
    assert "<assistant>I look.{" in fitted(AS_JSON, [HISTORY[0], said])
    assert "<assistant>I look.\n<tool_call>" in fitted(PLAIN, [HISTORY[0], said])


def test_several_results_stand_together() -> None:
    more = {"role": "tool", "tool_call_id": "2", "content": "wind"}
    then = {"role": "user", "content": "So?"}
    assert fitted(PLAIN, [*HISTORY, more, then]).endswith(
        "<user><tool_response>\nrain\n</tool_response>\n<tool_response>\nwind\n</tool_response>"
        "<user>So?"
    )


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (PLAIN, "<system>Be brief<user>hi"),
        (STRICT, "<system>Be brief<user>hi"),
        (NAMES_DEVELOPERS, "<rules>Be briefhi"),
    ],
)
def test_a_developer_is_the_system_where_the_template_does_not_name_it(
    template: str, text: str
) -> None:
    messages = [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": "hi"}]
    assert fitted(template, messages) == text


def test_a_developer_stays_one_where_the_template_names_it() -> None:
    template = NAMES_DEVELOPERS.replace("<rules>", "<{{ m.role }}>")
    messages = [{"role": "developer", "content": "Be brief"}]
    assert fitted(template, messages) == "<developer>Be brief"


def test_reasoning_has_the_name_that_the_template_gives_it() -> None:
    answer = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}
    assert fitted(THINKS, [answer]) == "<assistant>4(2 and 2)"
    assert fitted(THINKS.replace("thinking", "reasoning_content"), [answer]).endswith("(2 and 2)")
    assert fitted(PLAIN, [answer]) == "<assistant>4"


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
ASKED = [{"role": "user", "content": "hi"}]


def test_tools_go_to_a_template_that_takes_them() -> None:
    template = "{{ tools | tojson if tools else '' }}" + PLAIN
    assert fitted(template, ASKED, [TOOL]) == json.dumps([TOOL]) + "<user>hi"


def test_tools_are_described_where_the_template_takes_none() -> None:
    text = fitted(PLAIN, ASKED, [TOOL])
    assert text.startswith("<system># Tools\n")
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in text
    assert text.endswith("<user>hi")
    for role in ("system", "developer"):
        said = fitted(PLAIN, [{"role": role, "content": "Be brief"}, *ASKED], [TOOL])
        assert said == text.replace("<system>", "<system>Be brief\n\n")


def test_other_chats_are_not_touched() -> None:
    messages = [{"role": "user", "content": "hi"}]

    def write(messages: Any, arguments: Any) -> str:
        raise AssertionError("nothing is to be found out")

    assert ChatForm(write).fit(messages) is messages


def test_a_template_that_takes_nothing_fails_the_row() -> None:
    with pytest.raises(ChatTemplateError, match="nothing"):
        fitted("{{ raise_exception('nothing') }}", HISTORY)

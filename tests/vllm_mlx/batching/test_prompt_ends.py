"""Where a template's prompt ends, and templates that leave no choice about it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_mlx.batching.prompts.template_arguments import TemplateArguments
from vllm_mlx.errors import ChatTemplateError
from vllm_mlx.sampling_params import SamplingParams

GOES_ON = SamplingParams.of(continue_final_message=True)
BEGINS_NOTHING = SamplingParams.of(add_generation_prompt=False)
OPEN = {"add_generation_prompt": False}


def of_jinja(template: str) -> TemplateArguments:
    inner = SimpleNamespace(chat_template=template, get_chat_template=lambda: template)
    tokenizer: Any = SimpleNamespace(_chat_template=None, _tokenizer=inner)
    return TemplateArguments(tokenizer, "m")


def of_function(function: Any) -> TemplateArguments:
    tokenizer: Any = SimpleNamespace(_chat_template=function, has_chat_template=True)
    return TemplateArguments(tokenizer, "m")


def test_jinja_is_cut_whatever_it_reads() -> None:
    assert of_jinja("{{ messages }}").of(GOES_ON) == OPEN | {"continue_final_message": True}


def test_an_answer_that_the_template_always_begins_is_refused() -> None:
    read = "{{ messages }}{% if add_generation_prompt %}>{% endif %}"
    assert of_jinja(read).of(BEGINS_NOTHING) == OPEN
    assert of_jinja("{{ messages }}>").of(SamplingParams.of(add_generation_prompt=True)) == {}
    with pytest.raises(ChatTemplateError, match=r"^add_generation_prompt: the chat template of m"):
        of_jinja("{{ messages }}>").of(BEGINS_NOTHING)


def test_functions_take_what_they_name() -> None:
    def knows(messages: Any, continue_final_message: bool = False, **_: Any) -> str:
        return ""

    def does_not(messages: Any, add_generation_prompt: bool = True, **_: Any) -> str:
        return ""

    assert of_function(knows).of(GOES_ON)["continue_final_message"]
    assert of_function(does_not).of(BEGINS_NOTHING) == OPEN
    with pytest.raises(ChatTemplateError, match=r"^continue_final_message: the chat template of m"):
        of_function(does_not).of(GOES_ON)
    with pytest.raises(ChatTemplateError, match=r"^add_generation_prompt: the chat template of m"):
        of_function(knows).of(BEGINS_NOTHING)

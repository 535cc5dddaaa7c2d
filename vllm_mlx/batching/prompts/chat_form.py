"""`ChatForm`: what of a chat one model's template takes, and the rest in a form that it takes.

Templates agree on system, user and assistant. Whether they know developers, in what form they want
calls of tools, and whether they know tools at all, is found out by rendering a few messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple

from vllm_mlx.batching.prompts.prompt import Messages
from vllm_mlx.batching.prompts.tool_text import calls_as_text, to_json, with_tools
from vllm_mlx.errors import ChatTemplateError

_ID = "call_00000000000000000000"  # as long as OpenAI's
_SHORT_ID = 9  # what Mistral's templates insist on
_WORDS = ("probe_function", "probe_key", "probe_value", "probe_result")
# A dict as Python writes it, and JSON within JSON: forms that no model was trained on.
_WRONG = ("'probe_key'", r"\"probe_key")


_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


class _CallForm(NamedTuple):
    """How a template wants the calls of an assistant's message."""

    content: str | None = ""
    as_text: bool = False
    short_ids: bool = False


# DeepSeek's older templates write calls only beside a content of None, and take text.
_FORMS = tuple(
    _CallForm(content, as_text, short_ids)
    for short_ids, as_text, content in product((False, True), (False, True), ("", None))
)


class ChatForm:
    """Fits messages to a model's chat template.

    Args:
        write: the template: the text of messages, and of what else is given by name; raises
            `ChatTemplateError`.
    """

    def __init__(self, write: Callable[[Messages, Mapping[str, Any]], str]) -> None:
        self._write = write

    def fit(self, messages: Messages, tools: Sequence[Any] = ()) -> Messages:
        """Return messages that the template writes as its model was trained; most as they are.

        Args:
            tools: which are described in the messages if the template does not take them.
        """
        if tools and not self.takes_tools:
            messages = with_tools(messages, tools)
        if not any(_is_special(message) for message in messages):
            return messages
        messages = [self._fit(message) for message in messages]
        if any("tool_calls" in each or each["role"] == "tool" for each in messages):
            names = dict(_names_of_calls(messages))
            messages = [_with_name(message, names) for message in messages]
            messages = self._with_calls(messages)
        return messages

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template shows the model tools that are given to it."""
        function = {"name": "probe_function", "description": "probe", "parameters": _NO_PARAMETERS}
        tools = [{"type": "function", "function": function}]
        return "probe_function" in (self._written([_ASKED], {"tools": tools}) or "")

    @cached_property
    def calls_in_json(self) -> bool:
        """Whether an answer of the model that calls a function is JSON, and nothing besides."""
        said = self._written([_ASKED, _call(self._call_form)]) if self._call_form else None
        return said is not None and '{"name": "probe_function", "parameters": {"probe_key"' in said

    def _fit(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if message["role"] == "developer" and not self._knows_developers:
            return {**message, "role": "system"}
        if "reasoning_content" in message and self._reasoning_key != "reasoning_content":
            fitted = dict(message)
            fitted[self._reasoning_key] = fitted.pop("reasoning_content")
            return fitted
        return message

    def _with_calls(self, messages: Messages) -> Messages:
        if (form := self._call_form) is None:
            return list(calls_as_text(messages))
        return [_in_form(message, form) for message in messages]

    @cached_property
    def _knows_developers(self) -> bool:
        """Whether it has a form for developers, other than for a role it has never heard of."""
        said, unknown = (
            self._written([{"role": role, "content": "probe"}, {"role": "user", "content": "?"}])
            for role in ("developer", "unheardof")
        )
        return said is not None and said != (unknown or "").replace("unheardof", "developer")

    @cached_property
    def _reasoning_key(self) -> str:
        plain = {"role": "assistant", "content": "probe"}
        for key in ("reasoning_content", "thinking", "reasoning"):
            for answer in (_call(_FORMS[0]), plain):
                said = self._written([_ASKED, {**answer, key: "probe_thought"}]) or ""
                if "probe_thought" in said:
                    return key
        return "reasoning_content"

    @cached_property
    def _call_form(self) -> _CallForm | None:
        """The form in which the template writes calls and results; None if it knows none."""
        for form in _FORMS:
            said = self._written([_ASKED, _call(form), _in_form(_RESULT, form)]) or ""
            wrong = (*_WRONG, "None") if form.content is None else _WRONG
            if all(word in said for word in _WORDS) and not any(word in said for word in wrong):
                return form
        return None

    def _written(self, messages: Messages, arguments: Mapping[str, Any] = _NOTHING) -> str | None:
        try:
            return self._write(messages, arguments)
        except ChatTemplateError:
            return None


_ASKED = {"role": "user", "content": "?"}
_RESULT = {
    "role": "tool",
    "tool_call_id": _ID,
    "name": "probe_function",
    "content": "probe_result",
}


def _call(form: _CallForm) -> Mapping[str, Any]:
    function = {"name": "probe_function", "arguments": {"probe_key": "probe_value"}}
    calls = [{"id": _ID, "type": "function", "function": function}]
    return _in_form({"role": "assistant", "content": "", "tool_calls": calls}, form)


def _is_special(message: Mapping[str, Any]) -> bool:
    return (
        message["role"] in ("developer", "tool")
        or "tool_calls" in message
        or "reasoning_content" in message
    )


def _in_form(message: Mapping[str, Any], form: _CallForm) -> Mapping[str, Any]:
    changed = dict(message)
    if form.short_ids and "tool_call_id" in message:
        changed["tool_call_id"] = _short(message["tool_call_id"])
    if "tool_calls" in message:
        changed["content"] = message["content"] or form.content
        changed["tool_calls"] = [_call_in_form(call, form) for call in message["tool_calls"]]
    return changed


def _call_in_form(call: Mapping[str, Any], form: _CallForm) -> dict[str, Any]:
    changed = dict(call)
    if form.as_text:
        function = call["function"]
        changed["function"] = {**function, "arguments": to_json(function["arguments"])}
    if form.short_ids and "id" in call:
        changed["id"] = _short(call["id"])
    return changed


def _short(call_id: str) -> str:
    if len(call_id) == _SHORT_ID and call_id.isalnum():
        return call_id
    return sha256(call_id.encode()).hexdigest()[:_SHORT_ID]


def _names_of_calls(messages: Messages) -> Iterator[tuple[str, str]]:
    for message in messages:
        for call in message.get("tool_calls", ()):
            if "id" in call:
                yield call["id"], call["function"]["name"]


def _with_name(message: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    """Name the function beside its result: OpenAI leaves it out, and some templates write it."""
    name = names.get(message.get("tool_call_id", ""))
    if message["role"] != "tool" or name is None or "name" in message:
        return message
    return {**message, "name": name}

"""`Message`: one turn of a chat, in OpenAI's form; the same in files and in Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    with_config,
)

# Until Python 3.12 pydantic reads the TypedDict of typing_extensions only.
from typing_extensions import TypedDict

from vllm_mlx.content import Content, content_of
from vllm_mlx.errors import InvalidRequestError, shown
from vllm_mlx.parameters import describe

_ANY_SOURCE = "any_source"
_STRICT = ConfigDict(extra="forbid", strict=True)


def _arguments(given: Any) -> Any:
    """OpenAI writes the arguments of a call as JSON text."""
    try:
        arguments = json.loads(given or "{}") if isinstance(given, str) else given
    except ValueError as error:
        raise ValueError(f"should be a JSON object: {error}") from None
    if not isinstance(arguments, dict):
        raise ValueError("should be a JSON object")
    return arguments


def _call(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    found = {key: value for key, value in given.items() if value is not None}
    if "name" in found and "function" not in found:  # as transformers documents it
        own = {key: found.pop(key) for key in ("name", "arguments") if key in found}
        found["function"] = own
    return {"type": "function", **found}


def _content(given: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    any_source = bool(info.context and info.context[_ANY_SOURCE])
    content = content_of(given, any_source=any_source)
    # What of Python's text is no UTF-8 is named later, with its place.
    return content if any_source else validate(content)


@with_config(_STRICT)
class FunctionCall(TypedDict):
    """What is called: a function, with arguments by name."""

    name: Annotated[str, StringConstraints(min_length=1)]
    arguments: Annotated[dict[str, Any], BeforeValidator(_arguments)]


@with_config(_STRICT)
class ToolCallParam(TypedDict):
    """A call of a tool by the assistant."""

    id: NotRequired[str]
    type: Literal["function"]
    function: FunctionCall


@with_config(_STRICT)
class Message(TypedDict):
    """One message of a chat, as chat templates take it."""

    role: Literal["system", "user", "assistant", "tool", "developer"]
    content: Annotated[Content, WrapValidator(_content)]
    name: NotRequired[str]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[Annotated[ToolCallParam, BeforeValidator(_call)]]]
    tool_call_id: NotRequired[str]


_KEYS = Message.__required_keys__ | Message.__optional_keys__
# What OpenAI's answers have besides. An annotation is where a passage of the text comes from.
_ALSO = frozenset({"refusal", "annotations", "reasoning"})
_NOT_SUPPORTED = {
    "function_call": "write it as tool_calls",
    "audio": "write what is said as content",
}
_OF_ROLE = {
    "tool_calls": "assistant",
    "reasoning_content": "assistant",
    "refusal": "assistant",
    "annotations": "assistant",
    "tool_call_id": "tool",
}


def _message(given: Any) -> Any:
    """Return a message as it will be validated: nulls and empty lists are as good as not given.

    Raises:
        ValueError: a key of it would be ignored.
    """
    if not isinstance(given, Mapping):
        return given
    message = {
        key: value
        for key, value in given.items()
        if value is not None and not (value == [] and key != "content")
    }
    for key, instead in _NOT_SUPPORTED.items():
        if key in message:
            raise ValueError(f"{key}: not supported; {instead}")
    if unknown := message.keys() - _KEYS - _ALSO:
        names, allowed = (", ".join(sorted(each)) for each in (map(repr, unknown), _KEYS | _ALSO))
        raise ValueError(f"unknown key {names}; allowed are {allowed}")
    if "reasoning" in message:  # as vLLM's newer answers name it
        if "reasoning_content" in message:
            raise ValueError("give one of reasoning and reasoning_content")
        message["reasoning_content"] = message.pop("reasoning")
    for key, role in _OF_ROLE.items():
        if key in message and message.get("role", role) != role:
            raise ValueError(f"{key}: only a message of role {role!r} has it")
    message.pop("annotations", None)
    if refusal := message.pop("refusal", None):
        if message.get("content"):
            raise ValueError("give one of content and refusal")
        message["content"] = refusal
    if "tool_calls" in message or "reasoning_content" in message:
        message.setdefault("content", "")
    return message


_Messages = list[Annotated[Message, BeforeValidator(_message)]]
Messages = Annotated[_Messages, Field(min_length=1)]
"""The messages of a chat, whichever way they were written."""


class _Chat(TypedDict):
    messages: _Messages


_CHAT: TypeAdapter[_Chat] = TypeAdapter(_Chat)


def messages_of(given: Sequence[Any]) -> list[Message]:
    """Return the messages of a call in Python, whose media may be more than strings.

    Raises:
        InvalidRequestError: naming the message, its field, what was given and what is allowed.
    """
    try:
        chat = _CHAT.validate_python({"messages": list(given)}, context={_ANY_SOURCE: True})
    except ValidationError as error:
        raise InvalidRequestError(describe(error, _Chat)) from None
    return chat["messages"]


def check_final(messages: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that the last message can be gone on with.

    Raises:
        InvalidRequestError: it is not the assistant's, calls tools, or has no text.
    """
    last = messages[-1]
    role, content = last.get("role"), last.get("content")
    is_text = isinstance(content, str) and bool(content.strip())
    if role != "assistant" or not is_text or "tool_calls" in last:
        raise InvalidRequestError(
            "continue_final_message: the last message should be text of the assistant, without "
            f"tool_calls; its role is {shown(role)}, its content {shown(content)}"
        )

"""`Tool` and `ToolChoice`: functions that a model may call, in OpenAI's form. Needs no MLX."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
    with_config,
)

# Until Python 3.12 pydantic reads the TypedDict of typing_extensions only.
from typing_extensions import TypedDict

from vllm_mlx.errors import InvalidRequestError, shown
from vllm_mlx.json_record import half_text

MAX_TOOLS = 128
"""OpenAI's own bound."""
_STRICT = ConfigDict(extra="forbid", strict=True)
FunctionName = Annotated[str, StringConstraints(min_length=1)]


def _given(value: Any) -> Any:
    """Return an object without nulls."""
    if not isinstance(value, Mapping):
        return value
    return {key: each for key, each in value.items() if each is not None}


@with_config(_STRICT)
class Function(TypedDict):
    """A function: its name, what it does, and the JSON schema of its arguments."""

    name: FunctionName
    description: NotRequired[str]
    parameters: NotRequired[dict[str, JsonValue]]
    strict: NotRequired[bool]


def _tool(given: Any) -> Any:
    """Return a tool without nulls.

    Raises:
        ValueError: it is of another kind, or is written as for OpenAI's Responses.
    """
    tool = _given(given)
    if not isinstance(tool, dict) or (kind := tool.get("type")) is None:
        return tool
    if kind != "function":
        raise ValueError(f"type={shown(kind)}: should be 'function'; no other tools are run")
    if "function" not in tool and (own := [key for key in tool if key in _OF_A_FUNCTION]):
        raise ValueError(
            f'{", ".join(own)}: should stand within function: {{"type": "function", "function": '
            '{"name": …, "parameters": …}}'
        )
    return tool


_OF_A_FUNCTION = Function.__required_keys__ | Function.__optional_keys__


@with_config(_STRICT)
class Tool(TypedDict):
    """A tool; of OpenAI's kinds only functions run anywhere."""

    type: Literal["function"]
    function: Annotated[Function, BeforeValidator(_given)]


def _tools(given: Any) -> Any:
    value = _from_json(given) if isinstance(given, str) else given
    _require_text(value, "tools")
    return None if value in ([], ()) else tuple(value) if isinstance(value, list) else value


def _choice(given: Any) -> Any:
    """Return `auto`, `none`, `required` or the name of a function in braces."""
    value = _from_json(given) if isinstance(given, str) and given.startswith("{") else given
    if isinstance(value, Mapping):
        _require_text(value, "tool_choice")
        if value.get("type") != "function":
            raise ValueError("type should be 'function'")
        if "name" in value and "function" not in value:
            raise ValueError(
                'name: should stand within function: {"type": "function", "function": {"name": …}}'
            )
        # By itself, since errors of a union name its members.
        return _CHOSEN.validate_python(_given(value))
    if value not in (None, "auto", "none", "required"):
        raise ValueError(
            'should be auto, none, required or {"type": "function", "function": {"name": …}}'
        )
    return value


def _require_text(value: Any, where: str) -> None:
    try:
        refusal = half_text(value, where)
    except RecursionError:
        refusal = "nested too deeply"
    if refusal:
        raise ValueError(refusal)


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


@with_config(_STRICT)
class ChosenFunction(TypedDict):
    """The name of a function that is to be called."""

    name: FunctionName


@with_config(_STRICT)
class Chosen(TypedDict):
    """A choice of one function."""

    type: Literal["function"]
    function: ChosenFunction


_CHOSEN: TypeAdapter[Chosen] = TypeAdapter(Chosen)
_Tools = Annotated[tuple[Annotated[Tool, BeforeValidator(_tool)], ...], Field(max_length=MAX_TOOLS)]
ToolsField = Annotated[
    _Tools | None, BeforeValidator(_tools), WithJsonSchema({"type": "list of objects"})
]
ToolChoice: TypeAlias = Literal["auto", "none", "required"] | Chosen
ToolChoiceField = Annotated[
    ToolChoice | None, BeforeValidator(_choice), WithJsonSchema({"type": "string or object"})
]


def is_forced(choice: ToolChoice | None) -> bool:
    """Whether a call has to be made, which the answer is then held to."""
    return choice == "required" or isinstance(choice, Mapping)


def chosen_name(choice: ToolChoice | None) -> str | None:
    """Return the one function that is to be called, if one is."""
    return choice["function"]["name"] if isinstance(choice, Mapping) else None


def check_tools(tools: tuple[Tool, ...] | None, choice: ToolChoice | None) -> None:
    """Make sure that a choice can be made.

    Raises:
        InvalidRequestError: there are no tools to choose from, or not the one, or two of one name.
    """
    names = [tool["function"]["name"] for tool in tools or ()]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InvalidRequestError(f"tools: there are several of the name {twice[0]!r}; rename one")
    if not is_forced(choice):
        return
    if not tools:
        raise InvalidRequestError(f"tool_choice={choice!r}: goes with tools, and none are given")
    if (name := chosen_name(choice)) is not None and name not in names:
        raise InvalidRequestError(f"tool_choice: there is no tool {name!r}, but {', '.join(names)}")


def as_shown(tools: tuple[Tool, ...] | None, choice: ToolChoice | None) -> list[dict[str, Any]]:
    """Return the tools that the model is shown; each has parameters, which templates expect."""
    if not tools or choice == "none":
        return []
    nothing = {"type": "object", "properties": {}}
    return [
        {
            **tool,
            "function": {
                **tool["function"],
                "parameters": tool["function"].get("parameters") or nothing,
            },
        }
        for tool in tools
    ]

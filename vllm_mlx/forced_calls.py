"""What an answer is held to that has to call a tool: the schema of its calls. Needs no MLX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.structured_outputs import StructuredOutputs
from vllm_mlx.tools import Function, Tool, ToolChoice, chosen_name


def forced_outputs(
    tools: tuple[Tool, ...], choice: ToolChoice | None, most: int | None
) -> StructuredOutputs:
    """Return what an answer is that makes a forced call: a list of calls in JSON.

    Args:
        most: calls in one answer; a function that is chosen by name is called once.

    Raises:
        InvalidRequestError: the schema of a function's parameters can't be held.
    """
    name = chosen_name(choice)
    functions = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
    parameters = {f"tool{at}": each.get("parameters") or {} for at, each in enumerate(functions)}
    calls = [_call(each["name"], where) for each, where in zip(functions, parameters, strict=True)]
    schema: dict[str, Any] = {
        "type": "array",
        "items": calls[0] if len(calls) == 1 else {"anyOf": calls},
        "minItems": 1,
        "$defs": {
            where: _moved(_arguments(each), f"#/$defs/{where}")
            for where, each in parameters.items()
        },
    }
    if most or name is not None:
        schema["maxItems"] = 1
    try:
        return StructuredOutputs.of({"json": schema})
    except ValueError as error:
        alone = (_refusal(each) for each in functions)
        reason = next(filter(None, alone), f"parameters: {error}")
        raise InvalidRequestError(f"tool_choice={choice!r}: {reason}") from None


def _refusal(function: Function) -> str | None:
    """Return why no answer can be held to the parameters of this function."""
    try:
        StructuredOutputs.of({"json": _arguments(function.get("parameters") or {})})
    except ValueError as error:
        return f"the parameters of {function['name']!r}: {str(error).removeprefix('json: ')}"
    return None


def _call(name: str, where: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{where}"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _arguments(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of arguments, of those that are declared unless it says otherwise."""
    composed = parameters.keys() & {"$ref", "anyOf", "oneOf", "allOf", "patternProperties"}
    closed = {} if composed else {"additionalProperties": False}
    return {"type": "object", **closed, **parameters}


def _moved(schema: Any, root: str) -> Any:
    """Return a schema that stands at `root` of another, where its references lead as before."""
    if isinstance(schema, list):
        return [_moved(each, root) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(each, root) for key, each in schema.items()}
    target = schema.get("$ref")
    if isinstance(target, str) and target.startswith("#"):
        moved["$ref"] = root + target[1:]
    return moved

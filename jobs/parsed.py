"""`parsed`: answers in JSON as values, of one Arrow type where all rows of a run have one form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

from jobs.column_types import JSON_TEXT, TypeSpec, is_field_name
from vllm_mlx.structured_outputs import StructuredOutputs

_DEEPEST = 16
_MOST_KEYS = 100
_OF_TYPE = {"string": "string", "integer": "int64", "number": "double", "boolean": "bool"}


class ParsedType:
    """The type of `parsed` for the rows of one run, found while they are surveyed."""

    def __init__(self) -> None:
        self._seen: list[TypeSpec] = []

    def observe(self, outputs: StructuredOutputs | None) -> None:
        """Add what one row asks for."""
        if outputs and (spec := parsed_type(outputs)) is not None and spec not in self._seen:
            self._seen = [*self._seen, spec][-2:]

    @property
    def type(self) -> TypeSpec:
        """The type that all rows have, or else JSON text."""
        return self._seen[0] if len(self._seen) == 1 else JSON_TEXT


@lru_cache(maxsize=1024)
def parsed_type(outputs: StructuredOutputs) -> TypeSpec | None:
    """Return the type of all answers to it; JSON text where they have several forms, None where
    they are no JSON."""
    if outputs.kind == "json_object":
        return JSON_TEXT
    schema = outputs.schema
    return None if schema is None else _type(schema, schema, _DEEPEST) or JSON_TEXT


def parser(spec: TypeSpec) -> Callable[[str], Any]:
    """Return what makes a cell of `parsed` out of an answer in JSON; None of one whose numbers are
    beyond its type."""
    if spec == JSON_TEXT:
        return str

    def parse(text: str) -> Any:
        try:
            return _value(json.loads(text), spec)
        except (ArithmeticError, AttributeError, TypeError, ValueError):
            return None

    return parse


def _value(value: Any, spec: TypeSpec) -> Any:
    if value is None:
        return None
    match spec:
        case "double":
            return float(value)
        case "int64":
            if not -(2**63) <= value < 2**63:
                raise OverflowError
            return value
        case {"list": inner}:
            return [_value(each, inner) for each in value]
        case {"struct": dict(fields)}:
            return {name: _value(value.get(name), each) for name, each in fields.items()}
        case _:
            return value


def _type(schema: Any, root: Mapping[str, Any], depth: int) -> TypeSpec | None:
    """Return the type of all values that a schema holds for; None if there is none."""
    if not isinstance(schema, Mapping) or not depth:
        return None
    inside = partial(_type, root=root, depth=depth - 1)
    if "$ref" in schema:
        return inside(_referenced(schema["$ref"], root))
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return _one([inside(each) for each in schema[several] if not _is_null(each)])
    if "enum" in schema or "const" in schema:
        return _type_of_values(schema.get("enum", [schema.get("const")]))
    kinds = schema.get("type")
    kinds = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if kind != "null"]
    if set(kinds) == {"integer", "number"}:
        return "double"
    match kinds:
        case ["array"]:
            prefix = [inside(each) for each in schema.get("prefixItems", [])]
            inner = _one([*prefix, *([inside(schema["items"])] if schema.get("items") else [])])
            return None if inner is None else {"list": inner}
        case ["object"]:
            return _struct(schema, inside)
        case [kind]:
            return _OF_TYPE.get(kind)
        case _:
            return None


def _struct(schema: Mapping[str, Any], inside: Callable[[Any], TypeSpec | None]) -> TypeSpec | None:
    names = schema.get("properties")
    if not names or schema.get("additionalProperties") is not False:
        return None
    if schema.get("patternProperties") or len(names) > _MOST_KEYS:
        return None
    if len({name.casefold() for name in names}) < len(names):  # SQL ignores case
        return None
    if not all(map(is_field_name, names)):
        return None
    fields = {name: inside(each) for name, each in names.items()}
    return None if None in fields.values() else {"struct": fields}


def _type_of_values(values: list[Any]) -> TypeSpec | None:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values if value is not None):
        return "int64"
    if kinds and kinds <= {int, float}:
        return "double"
    if kinds == {bool}:
        return "bool"
    return "string" if kinds == {str} else None


def _is_null(schema: Any) -> bool:
    return isinstance(schema, Mapping) and (
        schema.get("type") == "null" or schema.get("const", 0) is None
    )


def _one(types: list[TypeSpec | None]) -> TypeSpec | None:
    """Return the one type among these, integers being numbers, too."""
    if types and all(each in ("int64", "double") for each in types):
        return "int64" if set(map(str, types)) == {"int64"} else "double"
    return types[0] if types and all(each == types[0] for each in types) else None


def _referenced(name: Any, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for part in str(name).removeprefix("#").split("/")[1:]:
        if not isinstance(found, Mapping):
            return None
        found = found.get(part.replace("~1", "/").replace("~0", "~"))
    return found

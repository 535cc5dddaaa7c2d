"""Values of a table's cells as the JSON values they stand for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AllowInfNan, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from jobs.column_types import TypeSpec
from jobs.column_values import is_bytes, json_values
from jobs.requests import GenerationRequest
from jobs.sources.conversations import CONVERSATIONS
from jobs.sources.dialect import FIELDS, MEDIA_FIELDS, SHORTHANDS


def converted(column: str, cell: Any) -> Any:
    """Return the value of a column's cell; what does not convert is left for validation to name."""
    convert = _CONVERTERS.get(column)
    return convert(cell) if convert else cell


_CONVERTED = re.compile('"map"|decimal|binary')


def _scalar(adapter: TypeAdapter[Any], cell: Any) -> Any:
    if not isinstance(cell, str | Decimal | float):
        return cell
    try:
        return adapter.validate_python(cell)
    except ValidationError:
        return cell


def _json_container(cell: Any) -> Any:
    """Return a JSON array or object; other text stays text."""
    if not isinstance(cell, str) or not cell.lstrip().startswith(("[", "{")):
        return cell
    try:
        return from_json(cell, allow_inf_nan=False)
    except ValueError:
        return cell


# pandas writes a column of integers with gaps as floats, and large ones as 1e+16.
_INTEGER: TypeAdapter[int] = TypeAdapter(
    Annotated[int | Annotated[int, BeforeValidator(float)], Field(union_mode="left_to_right")]
)

_BY_TYPE: dict[Any, TypeAdapter[Any]] = {
    float: TypeAdapter(Annotated[float, AllowInfNan(False)]),
    int: _INTEGER,
    int | None: _INTEGER,
    bool: TypeAdapter(bool),  # as JSON, Python and spreadsheets write it
}

_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        (
            "stop",
            "messages",
            CONVERSATIONS,
            "images",
            "videos",
            "logit_bias",
            "chat_template_kwargs",
            "tools",
            "tool_choice",
        ),
        _json_container,
    ),
    "stop_token_ids": lambda cell: _scalar(_INTEGER, _json_container(cell)),
    **{
        name: partial(_scalar, _BY_TYPE[field.annotation])
        for name, field in GenerationRequest.model_fields.items()
        if field.annotation in _BY_TYPE
    },
}


_OBJECTS = frozenset(
    {
        *("structured_outputs", "response_format", "tools", "tool_choice"),
        *("chat_template_kwargs", "messages", CONVERSATIONS),
    }
)
"""Fields of objects whose names differ from row to row, while a struct has all of them."""
_OF_SCHEMAS = ("structured_outputs", "response_format", "tools")


def column_cells(name: str, column: pa.Array) -> list[Any]:
    """Return the values of a column of a Parquet file as JSON.

    Those of a request's field are converted: NaN, which pandas has for gaps, is null there.

    Raises:
        ValueError: one can't be: the field holds bytes that are no text, what a schema says can't
            be told, or see `json_values`.
    """
    if name not in FIELDS:
        return json_values(column)
    values = [_gap_is_null(value) for value in json_values(column, maps_as_objects=True)]
    if name in _OBJECTS:
        values = [_without_gaps(value, name) for value in values]
    if name not in MEDIA_FIELDS and any(is_bytes(value) for value in values):
        raise ValueError("it holds bytes that are not UTF-8 text")
    return [converted(name, value) for value in values]


def _without_gaps(value: Any, where: str) -> Any:
    """Return a value without the nulls by which a struct says what this row does not have.

    Raises:
        ValueError: a null may be meant.
    """
    match value:
        case list():
            return [_without_gaps(each, f"{where}[{at}]") for at, each in enumerate(value)]
        case dict() if where.startswith(_OF_SCHEMAS) and value.get("const", 0) is None:
            raise ValueError(
                f"{where}.const is null, which in a struct is also what only other rows have: "
                "give this column as JSON text"
            )
        case dict():
            given = {key: each for key, each in value.items() if each is not None}
            return {key: _without_gaps(each, f"{where}.{key}") for key, each in given.items()}
        case _:
            return value


def is_kept(name: str, spec: TypeSpec) -> bool:
    """Return whether JSON values of a Parquet file's column of this type keep the type.

    Those of a request's fields may be converted, and then their type is found by looking at them.
    """
    if name not in FIELDS:
        return True
    if _CONVERTED.search(json.dumps(spec)):
        return False
    if name in MEDIA_FIELDS:
        return spec == "string" if name in SHORTHANDS else spec == {"list": "string"}
    return name not in _CONVERTERS or spec not in ("string", "large_string")


def _gap_is_null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value

"""Values of a table's cells as the JSON values they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from typing import Annotated, Any

from pydantic import AllowInfNan, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from jobs.requests import GenerationRequest


def converted(column: str, cell: Any) -> Any:
    """Return the value of a column's cell; what does not convert is left for validation to name."""
    convert = _CONVERTERS.get(column)
    return convert(cell) if convert else cell


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
    **dict.fromkeys(("stop", "messages", "images", "videos"), _json_container),
    **{
        name: partial(_scalar, _BY_TYPE[field.annotation])
        for name, field in GenerationRequest.model_fields.items()
        if field.annotation in _BY_TYPE
    },
}


def jsonable(value: Any) -> Any:
    """Return a Parquet value as JSON holds it.

    Raises:
        UnicodeDecodeError: for bytes that are not UTF-8 text.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return None if math.isnan(value) else value
        case dict():
            return {str(key): jsonable(item) for key, item in value.items()}
        case list() | tuple():
            return [jsonable(item) for item in value]
        case bytes():
            # Some writers do not mark their strings as strings.
            return value.decode()
        case datetime() | date() | time():
            return value.isoformat()
        case _:
            return str(value)

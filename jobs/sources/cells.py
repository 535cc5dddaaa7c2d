"""Values of a table's cells as the JSON values they stand for."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from pydantic_core import from_json

from vllm_mlx.sampling_params import SamplingParams
from vllm_mlx.video_params import VideoParams


def converter_of(column: str) -> Callable[[Any], Any] | None:
    """How cells of this column are read; None: as they are.

    What does not convert is left alone, so that validation names it.
    """
    return _CONVERTERS.get(column)


def _number(cell: Any) -> Any:
    if not isinstance(cell, str | Decimal):
        return cell
    try:
        number = float(cell)
    except ValueError:
        return cell
    return number if math.isfinite(number) else cell


def _integer(cell: Any) -> Any:
    """pandas writes a column of integers with gaps as floats: 256.0 is 256."""
    if isinstance(cell, str):
        try:
            return int(cell)
        except ValueError:
            pass
    number = _number(cell)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _boolean(cell: Any) -> Any:
    """true or false, as JSON, Python and spreadsheets write it."""
    return _BOOLEANS.get(cell.lower(), cell) if isinstance(cell, str) else cell


_BOOLEANS = {"true": True, "false": False}


def _json_container(cell: Any) -> Any:
    """A JSON array or object; other text stays text."""
    if not isinstance(cell, str) or not cell.lstrip().startswith(("[", "{")):
        return cell
    try:
        return from_json(cell, allow_inf_nan=False)
    except ValueError:
        return cell


_BY_TYPE: dict[Any, Callable[[Any], Any]] = {
    float: _number,
    int: _integer,
    int | None: _integer,
    bool: _boolean,
}

_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    **{
        name: _BY_TYPE.get(field.annotation, _json_container)
        for name, field in (SamplingParams.model_fields | VideoParams.model_fields).items()
    },
    "n": _integer,
    "messages": _json_container,
    "images": _json_container,
    "videos": _json_container,
    "metadata": _json_container,
}


def jsonable(value: Any) -> Any:
    """A Parquet value as JSON holds it.

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

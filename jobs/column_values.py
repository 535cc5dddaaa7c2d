"""Values of typed columns: as JSON between producer and worker, as Arrow in files.

What JSON has no form for is text: dates and times (`2024-01-31 12:30:00.000000`, and `Z` behind one
of a time zone), decimals as digits. Bytes are the text that they are in UTF-8, or else an object
`{"base64": …}`. Durations are numbers of their unit, maps are lists of pairs. Each comes back as it
was.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias

import pyarrow as pa

from jobs.column_types import JSON_TEXT, TypeSpec, arrow_type, carried_type, type_spec, with_leaves

Convert: TypeAlias = Callable[[Any], Any]

BASE64 = "base64"
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = date(1970, 1, 1).toordinal()
_MS_PER_DAY = 86_400_000

_to_json = json.JSONEncoder(ensure_ascii=False).encode


def json_values(column: pa.Array, *, maps_as_objects: bool = False) -> list[Any]:
    """Return a column's values as JSON.

    Args:
        maps_as_objects: maps become objects; the last of equal keys stays.

    Raises:
        ValueError: a value has no such form, as a date after the year 9999.
    """
    type = carried_type(column.type)
    written = column.cast(with_leaves(type, _in_utc)).cast(with_leaves(type, _as_written))
    spec = type_spec(type)
    values: list[Any] = written.to_pylist()
    convert = _converter(spec, _leaf_to_json, _lists)
    carried = values if convert is None else list(map(convert, values))
    if written.type != type or convert is not None:
        _check_return(carried, spec, type)
    if not maps_as_objects or convert is None:
        return carried
    return list(map(_converter(spec, _leaf_to_json, dict) or _same, values))


def _check_return(values: list[Any], spec: TypeSpec, type: pa.DataType) -> None:
    """Find values that a worker could not bring back, as not every date that is written can be.

    Raises:
        ValueError: there is one.
    """
    try:
        arrow_values(map(cell_encoder(spec), values), type)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{error}; leave the column out, or correct or empty the cell") from None


def cell_encoder(spec: TypeSpec) -> Convert:
    """Return what encodes a JSON value of a column of this type for `arrow_values`.

    It raises ArithmeticError, LookupError, TypeError or ValueError where the value is of another
    type.

    Raises:
        ValueError: there is no such type.
    """
    arrow_type(spec)
    return _converter(spec, _leaf_of_json, _tuples) or _same


def json_decoder(spec: TypeSpec) -> Convert:
    """Return what decodes the JSON text in one of `json_values` of a column of this type."""
    return _converter(spec, lambda leaf: json.loads if leaf == JSON_TEXT else None, _lists) or _same


def arrow_values(cells: Iterable[Any], type: pa.DataType) -> pa.Array:
    """Return encoded values as a column of this type.

    Raises:
        pa.ArrowException, OverflowError: one is of another type.
    """
    # No text is cast here: Arrow has empty text below a struct that is null, and reads that, too.
    column = pa.array(cells, with_leaves(type, _as_encoded))
    return column if column.type == type else column.cast(type)


def is_bytes(value: Any) -> bool:
    """Return whether a JSON value stands for bytes that are no text."""
    return isinstance(value, dict) and value.keys() == {BASE64}


def _in_utc(leaf: pa.DataType) -> pa.DataType:
    return pa.timestamp(leaf.unit, "UTC") if pa.types.is_timestamp(leaf) and leaf.tz else leaf


def _as_written(leaf: pa.DataType) -> pa.DataType:
    """Return the type from which Arrow makes the Python value that is the leaf's JSON."""
    types = pa.types
    if types.is_timestamp(leaf) or types.is_date(leaf) or types.is_time(leaf):
        return pa.string()
    if types.is_decimal(leaf):
        return pa.string()
    return pa.int64() if types.is_duration(leaf) else _as_encoded(leaf)


def _as_encoded(leaf: pa.DataType) -> pa.DataType:
    """Return the type that Arrow makes of a leaf's encoded value."""
    return pa.float32() if pa.types.is_float16(leaf) else leaf


def _leaf_to_json(leaf: str) -> Convert | None:
    return _of_bytes if "binary" in leaf else None


def _leaf_of_json(leaf: str) -> Convert | None:
    if leaf == JSON_TEXT:
        return _to_json
    if "binary" in leaf:
        return _to_bytes
    if leaf.startswith("decimal"):
        return _number
    if leaf.startswith("date"):
        return partial(_day, ticks=1 if leaf.startswith("date32") else _MS_PER_DAY)
    if leaf.startswith("timestamp"):
        return partial(_moment, per_second=_PER_SECOND[leaf[10:].partition(",")[0].rstrip("]")])
    if leaf.startswith("time"):
        return partial(_ticks, per_second=_PER_SECOND[leaf.partition("[")[2][:-1]])
    return None


def _of_bytes(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {BASE64: b64encode(value).decode()}


def _to_bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else b64decode(value[BASE64], validate=True)


def _number(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except ArithmeticError:
        raise ValueError(f"{digits!r} is no number") from None


def _day(text: str, ticks: int) -> int:
    try:
        return (date.fromisoformat(text).toordinal() - _EPOCH) * ticks
    except ValueError:
        raise ValueError(f"{text!r} is no date of the years 1 to 9999") from None


def _moment(text: str, per_second: int) -> int:
    day, _, time = text.removesuffix("Z").partition(" ")
    return _day(day, 86_400 * per_second) + _ticks(time, per_second)


def _ticks(time: str, per_second: int) -> int:
    hours, minutes, seconds = time.split(":")
    whole, _, fraction = seconds.partition(".")
    return ((int(hours) * 60 + int(minutes)) * 60 + int(whole)) * per_second + int(fraction or 0)


def _lists(pairs: Iterable[Any]) -> list[list[Any]]:
    return [list(pair) for pair in pairs]


def _tuples(pairs: Iterable[Any]) -> list[tuple[Any, Any]]:
    return [(key, item) for key, item in pairs]


def _converter(
    spec: TypeSpec, of_leaf: Callable[[str], Convert | None], of_pairs: Convert
) -> Convert | None:
    """Return what converts values of a type; None where they stay as they are."""
    if isinstance(spec, str):
        return _unless_null(of_leaf(spec))
    kind = next(key for key in spec if key != "size")
    inner = spec[kind]
    if kind == "struct":
        each = {name: _converter(field, of_leaf, of_pairs) for name, field in inner.items()}
        changed = {name: convert for name, convert in each.items() if convert}
        return _unless_null(partial(_struct, changed) if changed else None)
    if kind == "map":
        key, item = (_converter(part, of_leaf, of_pairs) or _same for part in inner)
        return _unless_null(lambda pairs: of_pairs((key(k), item(i)) for k, i in pairs))
    if kind == "parts":
        part = _converter({"struct": inner}, of_leaf, of_pairs) or _same
        return _unless_null(lambda content: list(map(part, _parts(content))))
    convert = _converter(inner, of_leaf, of_pairs)
    return _unless_null((lambda items: list(map(convert, items))) if convert else None)


def _struct(changed: dict[str, Convert], value: dict[str, Any]) -> dict[str, Any]:
    given = {**value}
    return given | {name: convert(given.get(name)) for name, convert in changed.items()}


def _parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _unless_null(convert: Convert | None) -> Convert | None:
    return convert and (lambda value: None if value is None else convert(value))


def _same(value: Any) -> Any:
    return value

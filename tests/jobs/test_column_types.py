"""TypeSpec: names of types that are JSON, and lead back to the type."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from jobs.column_types import arrow_type, carried_type, type_spec

TYPES = {
    "int64": pa.int64(),
    "halffloat": pa.float16(),
    "timestamp[us, tz=Europe/Berlin]": pa.timestamp("us", "Europe/Berlin"),
    "time64[ns]": pa.time64("ns"),
    "date32[day]": pa.date32(),
    "duration[ms]": pa.duration("ms"),
    "decimal128(38, 9)": pa.decimal128(38, 9),
    "decimal256(60, -2)": pa.decimal256(60, -2),
    "fixed_size_binary[4]": pa.binary(4),
    "large_binary": pa.large_binary(),
    "null": pa.null(),
}


@pytest.mark.parametrize(("name", "type"), TYPES.items())
def test_a_type_has_a_name_that_leads_back(name: str, type: pa.DataType) -> None:
    assert type_spec(type) == name
    nested = pa.map_(
        pa.string(), pa.struct([("a", pa.list_(type)), ("b", pa.large_list(pa.list_(type, 3)))])
    )
    for each in (type, nested):
        spec = type_spec(each)
        assert arrow_type(json.loads(json.dumps(spec))) == each


def test_json_is_text() -> None:
    assert arrow_type({"list": "json"}) == pa.list_(pa.string())


@pytest.mark.parametrize(
    "spec",
    [
        "text",
        "list<item: int64>",
        "decimal128(99, 0)",
        "timestamp[h, tz=UTC]",
        "fixed_size_binary[9999999]",
        {},
        {"list": "int64", "size": 3},
        {"list": 5},
        {"struct": {}},
        {"struct": ["a"]},
        {"map": ["string"]},
        {"fixed_size_list": "int64"},
        {"fixed_size_list": "int64", "size": 2**31 - 1},
        None,
    ],
)
def test_what_is_no_type_is_said(spec: Any) -> None:
    with pytest.raises((ValueError, pa.ArrowException)):
        arrow_type(spec)


def test_a_type_is_only_so_deep() -> None:
    spec: Any = "int64"
    for _ in range(1000):
        spec = {"list": spec}
    with pytest.raises(ValueError, match="a type in a type"):
        arrow_type(spec)


@pytest.mark.parametrize(
    ("type", "carried"),
    [
        (pa.dictionary(pa.int32(), pa.string()), pa.string()),
        (pa.list_(pa.dictionary(pa.int8(), pa.date32())), pa.list_(pa.date32())),
        (pa.string_view(), pa.string()),
        (pa.binary_view(), pa.binary()),
        (pa.uuid(), pa.binary(16)),
        (pa.struct([pa.field("a", pa.int8(), nullable=False)]), pa.struct([("a", pa.int8())])),
        (pa.large_string(), pa.large_string()),
    ],
)
def test_encodings_are_not_carried(type: pa.DataType, carried: pa.DataType) -> None:
    assert carried_type(type) == carried


def test_a_type_without_a_name_is_said() -> None:
    with pytest.raises(ValueError, match="list_view"):
        type_spec(pa.list_view(pa.int8()))

"""ColumnTypes: the one type that holds all values of a column unchanged."""

from __future__ import annotations

import json
import timeit
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.column_types import TypeSpec, arrow_type
from jobs.column_values import arrow_values, cell_encoder
from jobs.dataset import ColumnTypes
from jobs.errors import InputFileError

ARROW = {
    "string": pa.string(),
    "json": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
}


def type_of(values: list[Any]) -> TypeSpec:
    types = ColumnTypes()
    for value in values:
        types.observe({"c": value})
    return types.types["c"]


@pytest.mark.parametrize(
    ("values", "type"),
    [
        (["a", "b", ""], "string"),
        (["a", None], "string"),
        ([None, None], "string"),
        ([1, 2, None], "int64"),
        ([2**63 - 1, -(2**63)], "int64"),
        ([2**53 + 1], "int64"),
        ([1, 2**53 + 1], "int64"),
        ([2**63], "json"),
        ([-(2**63) - 1], "json"),
        ([0.5, None], "double"),
        ([1, 0.5], "double"),
        ([0.5, 1], "double"),
        ([2**53, 0.5], "double"),
        ([2**53 + 1, 0.5], "json"),
        ([0.5, -(2**53) - 1], "json"),
        ([2**63, 0.5], "json"),
        ([True, False, None], "bool"),
        ([True, 1], "json"),
        ([False, 0.5], "json"),
        (["a", 1], "json"),
        (["a", True], "json"),
        ([[1]], "json"),
        ([{"a": 1}, None], "json"),
        ([{"a": 1}, "a"], "json"),
    ],
)
def test_types(values: list[Any], type: str) -> None:
    assert type_of(values) == type
    assert type_of(values[::-1]) == type


def test_columns_come_in_the_order_they_were_first_seen() -> None:
    types = ColumnTypes()
    types.observe({"b": 1})
    types.observe({"a": None, "b": 2})
    types.observe({"c": "x", "a": 0.5})
    assert list(types.types.items()) == [("b", "int64"), ("a", "double"), ("c", "string")]


def test_nothing_observed_is_no_columns() -> None:
    assert ColumnTypes().types == {}


def test_five_hundred_columns_are_the_limit() -> None:
    types = ColumnTypes()
    for index in range(500):
        types.observe({f"c{index}": index})
    types.observe({f"c{index}": index for index in range(500)})
    with pytest.raises(InputFileError, match=r"more than 500 distinct columns.*'extra'"):
        types.observe({"extra": 1})
    assert len(types.types) == 500


def test_memory_does_not_grow_with_rows() -> None:
    types = ColumnTypes()
    for index in range(1000):
        types.observe({"a": f"value {index}", "b": index})
    assert types._seen.keys() == {"a", "b"}
    assert all(len(kinds) <= 6 for kinds in types._seen.values())


@pytest.mark.parametrize(
    ("value", "type", "encoded"),
    [
        ("a", "string", "a"),
        (5, "int64", 5),
        (5, "double", 5),
        (True, "bool", True),
        ("a", "json", '"a"'),
        ({"b": "é", "a": 1}, "json", '{"b": "é", "a": 1}'),
        (2**70, "json", str(2**70)),
        *((None, type, None) for type in ARROW),
    ],
)
def test_encode(value: Any, type: str, encoded: Any) -> None:
    result = cell_encoder(type)(value)
    assert result == encoded
    assert result.__class__ is encoded.__class__


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
COLUMN = st.one_of(
    st.lists(JSON),
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)),
    st.lists(st.none() | st.text()),
    st.lists(st.none() | st.booleans()),
)


@settings(deadline=None)  # the first array loads half of pyarrow
@given(COLUMN.filter(bool))
def test_every_value_comes_back_from_arrow(values: list[Any]) -> None:
    type = type_of(values)
    array = arrow_values(map(cell_encoder(type), values), arrow_type(type))
    stored = array.to_pylist()
    if type == "json":
        stored = [None if text is None else json.loads(text) for text in stored]
    assert stored == values


def test_observing_is_fast() -> None:
    types = ColumnTypes()
    row = {"prompt": "Write a haiku.", "score": 0.5}
    seconds = min(timeit.repeat(lambda: types.observe(row), number=5000, repeat=5))
    assert seconds / 5000 < 10e-6  # 0.3 µs on the machine it was written on

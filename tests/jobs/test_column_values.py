"""Values of typed columns go through JSON and come back as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.column_types import arrow_type, type_spec
from jobs.column_values import arrow_values, cell_encoder, is_bytes, json_values

INT = st.integers(-(2**63), 2**63 - 1)
# Years 1 to 9999, in the units of a type.
SECONDS = st.integers(-62135596800, 253402300799)
LEAVES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): INT,
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.float32(): st.floats(allow_nan=False, width=32),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(),
    pa.binary(): st.binary(),
    pa.binary(2): st.binary(min_size=2, max_size=2),
    pa.timestamp("s"): SECONDS,
    pa.timestamp("us", "Europe/Berlin"): SECONDS.map(lambda s: s * 10**6 + s % 10**6),
    pa.timestamp("ns"): st.integers(-(2**63), 2**63 - 1),
    pa.date32(): st.integers(-719162, 2932896),
    pa.time32("ms"): st.integers(0, 86399999),
    pa.time64("ns"): st.integers(0, 86399999999999),
    pa.duration("ns"): INT,
    pa.date64(): st.integers(-719162, 2932896).map(lambda day: day * 86_400_000),
    pa.decimal128(20, 3): st.decimals(-(10**16), 10**16, places=3),
    pa.decimal256(50, 1): st.decimals(-(10**20), 10**20, places=1),
}


VALUES: dict[pa.DataType, Any] = {
    pa.bool_(): True,
    pa.string(): "a",
    pa.binary(): b"\xff",
    pa.binary(2): b"\xff\xff",
    pa.date64(): 86_400_000,
}

# What may be around a leaf; of each a null has to come back, whatever Arrow puts below it.
AROUND: dict[str, Callable[[pa.DataType], pa.DataType]] = {
    "struct": lambda inner: pa.struct([("x", pa.int8()), ("a", inner)]),
    "list": pa.list_,
    "large_list": pa.large_list,
    "fixed_size_list": lambda inner: pa.list_(inner, 2),
    "map": lambda inner: pa.map_(pa.string(), inner),
}


def forms(type: pa.DataType, leaf: Any) -> list[Any]:
    """Return null, and values with null at each level, as plain Python has them."""
    if not pa.types.is_nested(type):
        return [None, leaf]
    if pa.types.is_struct(type):
        return [None, *({"x": 1, "a": inner} for inner in forms(type["a"].type, leaf))]
    if pa.types.is_map(type):
        pairs = [(str(n), inner) for n, inner in enumerate(forms(type.item_type, leaf))]
        return [None, [], pairs, pairs[:1]]
    inners = forms(type.value_type, leaf)
    if pa.types.is_fixed_size_list(type):
        return [None, *([inner, inners[-1]] for inner in inners)]
    return [None, [], inners, inners[:1]]


def there_and_back(column: pa.Array) -> pa.Array:
    spec = json.loads(json.dumps(type_spec(column.type)))
    values = json.loads(json.dumps(json_values(column)))
    return arrow_values(map(cell_encoder(spec), values), arrow_type(spec))


def column_of(type: pa.DataType, values: list[Any]) -> pa.Array:
    """Times as numbers of their unit, which Python's own types can't all hold."""
    if pa.types.is_temporal(type):
        number = pa.int32() if type.bit_width == 32 else pa.int64()
        return pa.array(values, number).cast(type)
    return pa.array(values, type)


@pytest.mark.parametrize("type", LEAVES, ids=str)
def test_every_value_comes_back(type: pa.DataType) -> None:
    @settings(deadline=None, max_examples=30, database=None)
    @given(st.lists(st.none() | LEAVES[type], max_size=4))
    def check(values: list[Any]) -> None:
        column = column_of(type, values)
        assert there_and_back(column).equals(column)
        offsets = pa.array([0, len(column), len(column)], pa.int32())
        nested = pa.ListArray.from_arrays(offsets, column)
        structs = pa.StructArray.from_arrays([nested, nested], ["a", "b"])
        assert there_and_back(structs).equals(structs)

    check()


@pytest.mark.parametrize("outer", AROUND)
@pytest.mark.parametrize("middle", [*AROUND, None])
def test_null_at_each_level_comes_back(outer: str, middle: str | None) -> None:
    """A struct that was null below it lost a finished run: dates were cast from empty text."""
    for leaf in LEAVES:
        inner = AROUND[middle](leaf) if middle else leaf
        type = AROUND[outer](AROUND["struct"](inner))
        column = pa.array(forms(type, VALUES.get(leaf, 1)), type)
        assert there_and_back(column).equals(column), type


def test_nan_stays_nan() -> None:
    [value, infinite] = there_and_back(pa.array([float("nan"), float("-inf")])).to_pylist()
    assert value != value
    assert infinite == float("-inf")


def test_maps_keep_equal_keys_and_null() -> None:
    type = pa.map_(pa.string(), pa.timestamp("ns"))
    column = pa.array([[("k", 1), ("k", None)], None, []], pa.map_(pa.string(), pa.int64()))
    column = column.cast(type)
    assert there_and_back(column).equals(column)
    assert json_values(column, maps_as_objects=True) == [{"k": None}, None, {}]


def test_bytes_that_are_text_are_text() -> None:
    assert json_values(pa.array([b"text", b"\xff"])) == ["text", {"base64": "/w=="}]
    assert list(map(is_bytes, ["text", {"base64": "/w=="}, {"base64": "", "x": 1}])) == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("seconds", [253402300800, 10**12, -(10**12), -62200000000])
def test_a_date_that_does_not_come_back_is_said(seconds: int) -> None:
    with pytest.raises(ValueError, match="is no date of the years 1 to 9999; leave the column out"):
        json_values(pa.array([0, seconds], pa.timestamp("s")))


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ("binary", 5),
        ("binary", {"base64": "?"}),
        ("time64[ns]", "noon"),
        ({"list": "binary"}, 5),
        ({"map": ["string", "int64"]}, [["a"]]),
        ({"struct": {"a": "binary"}}, [1]),
    ],
)
def test_values_of_another_type_raise_what_a_worker_expects(spec: Any, value: Any) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        cell_encoder(spec)(value)

"""ColumnTypes: the one type that holds all values of a column unchanged."""

from __future__ import annotations

import json
import timeit
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.column_types import TypeSpec, arrow_type
from jobs.column_values import arrow_values, cell_encoder
from jobs.dataset import ColumnTypes
from jobs.errors import InputFileError
from vllm_mlx.json_record import whole_text

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
        ([[1], [], None], {"list": "int64"}),
        ([[]], {"list": "string"}),
        ([[0.5, None], [1]], {"list": "double"}),
        ([["a"], [1]], "json"),
        ([[2**63]], "json"),
        ([["a"], "a"], "json"),
        ([[["a"]]], {"list": {"list": "string"}}),
        ([{"a": 1}, None], {"struct": {"a": "int64"}}),
        ([{"a": 1}, {"a": None}], {"struct": {"a": "int64"}}),
        ([{"a": 1}, {"a": {"b": 2}}], "json"),
        ([{"a": 1}, {}], "json"),
        ([{"a": 1}, {"b": 1}], "json"),
        ([{"a": 1}, {"a": 1, "b": 1}], "json"),
        ([{"a": [{"b": "x"}]}], {"struct": {"a": {"list": {"struct": {"b": "string"}}}}}),
        ([[{"a": 1}, {"b": 1}]], "json"),
        ([{}], "json"),
        ([{"": 1}], "json"),
        ([{"a\0": 1}], "json"),
        ([{"a": 1, "\ud83d": 1}], "json"),
        ([{"a": 1, "A": 1}], "json"),
        ([dict.fromkeys(map(str, range(101)), 1)], "json"),
        ([{"a": 1}, "a"], "json"),
    ],
)
def test_types(values: list[Any], type: TypeSpec) -> None:
    assert type_of(values) == type
    assert type_of(values[::-1]) == type


def test_a_value_too_deep_is_json() -> None:
    value: Any = 1
    for _ in range(100):
        value = [value]
    assert type_of([value]) == "json"


def messages_type(*chats: list[dict[str, Any]]) -> TypeSpec:
    types = ColumnTypes()
    for chat in chats:
        types.observe({"messages": chat})
    return types.types["messages"]


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_messages_are_structs_whatever_keys_are_missing() -> None:
    said = {"role": "user", "content": "hi"}
    assert messages_type([said], [{**said, "name": "Ann"}], []) == {
        "list": {"struct": {"role": "string", "content": "string", "name": "string"}}
    }
    assert messages_type([said, {"role": "assistant", "tool_calls": [CALL]}]) == {
        "list": {
            "struct": {
                "role": "string",
                "content": "string",
                "tool_calls": {
                    "list": {
                        "struct": {
                            "id": "string",
                            "type": "string",
                            "function": {"struct": {"name": "string", "arguments": "string"}},
                        }
                    }
                },
            }
        }
    }


@pytest.mark.parametrize(
    ("chat", "stored"),
    [
        (
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "image", "image": "a.png"}]},
                {"role": "user", "content": []},
                {"role": "assistant", "content": None},
            ],
            [
                ("system", [{"type": "text", "text": "Be brief.", "image": None}]),
                ("user", [{"type": "image", "text": None, "image": "a.png"}]),
                ("user", []),
                ("assistant", None),
            ],
        ),
        (
            [{"role": "a", "content": "x"}, {"role": "b", "content": []}],
            [("a", [{"type": "text", "text": "x"}]), ("b", [])],
        ),
        (
            [{"role": "a", "content": "x"}, {"role": "b", "content": ["y", {"type": "z"}]}],
            [("a", '"x"'), ("b", '["y", {"type": "z"}]')],
        ),
        (
            [{"role": "a", "content": "x"}, {"role": "b", "content": ["y"]}],
            [("a", '"x"'), ("b", '["y"]')],
        ),
        (
            [{"role": "a", "content": "x"}, {"role": "b", "content": 3}],
            [("a", '"x"'), ("b", "3")],
        ),
    ],
)
def test_content_of_several_forms(chat: list[Any], stored: list[Any]) -> None:
    """A string beside parts is one part of text; what has no form together is JSON."""
    spec = messages_type(chat)
    [found] = arrow_values([cell_encoder(spec)(chat)], arrow_type(spec)).to_pylist()
    assert [(message["role"], message["content"]) for message in found] == stored


def test_arguments_with_different_keys_are_json_as_openai_writes_them() -> None:
    calls = [{**CALL, "function": {"name": "f", "arguments": {key: 1}}} for key in "ab"]
    chat = [{"role": "assistant", "content": None, "tool_calls": calls}]
    spec = messages_type(chat)
    [[found]] = arrow_values([cell_encoder(spec)(chat)], arrow_type(spec)).to_pylist()
    arguments = [call["function"]["arguments"] for call in found["tool_calls"]]
    assert arguments == ['{"a": 1}', '{"b": 1}']


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
    assert all(len(shape._kinds) == 1 for shape in types._seen.values())


def test_memory_does_not_grow_with_keys() -> None:
    types = ColumnTypes()
    for index in range(1000):
        types.observe({"a": {f"key{index}": index}, "messages": [{f"key{index}": "x"}]})
    assert types.types == {"a": "json", "messages": "json"}
    assert not types._seen["a"]._fields


def test_an_embedding_is_looked_at_fast() -> None:
    types, row = ColumnTypes(), {"vector": [0.5] * 1000}
    seconds = min(timeit.repeat(lambda: types.observe(row), number=100, repeat=5))
    assert types.types == {"vector": {"list": "double"}}
    assert seconds / 100 < 500e-6  # 10 µs on the machine it was written on


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


KEYS = st.sampled_from(["type", "text", "role", "image", "A", "a", "", "a\0", "\ud83d"])
LOOSE = st.recursive(
    st.none() | st.integers() | st.sampled_from([True, 0.5, "x", "\ud83d"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
MESSAGE = LOOSE | st.fixed_dictionaries(
    {"role": st.just("user"), "content": LOOSE | st.just("hi") | st.just([{"type": "text"}])},
    optional={
        "name": LOOSE,
        "tool_calls": st.lists(
            st.fixed_dictionaries({"function": st.fixed_dictionaries({"arguments": LOOSE})})
        ),
    },
)


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_whatever_was_observed_goes_into_a_part(column: str) -> None:
    """Also chats of bad rows, which have a column, too: what does not cost the run at its end."""

    @settings(deadline=None, max_examples=60, database=None)
    @given(st.lists(st.lists(MESSAGE, max_size=3) | LOOSE, min_size=1, max_size=3))
    @example([[{"name": {}}]])
    @example(["x", [{"type": "text", "text": 5}]])
    @example(["x", [{"type": 5}]])
    def check(values: list[Any]) -> None:
        types = ColumnTypes()
        for value in values:
            types.observe({column: value})
        spec = types.types[column]
        cells = whole_text(list(map(cell_encoder(spec), values)))
        assert len(arrow_values(cells, arrow_type(spec))) == len(values)

    check()


def test_observing_is_fast() -> None:
    types = ColumnTypes()
    row = {"prompt": "Write a haiku.", "score": 0.5}
    seconds = min(timeit.repeat(lambda: types.observe(row), number=5000, repeat=5))
    assert seconds / 5000 < 10e-6  # 0.3 µs on the machine it was written on

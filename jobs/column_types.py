"""What types an input's columns have: JSON in the spec of a run, Arrow in the dataset.

A `TypeSpec` is the name that Arrow prints for a type (`int64`, `timestamp[us, tz=UTC]`), `json` for
values that become JSON text, or an object for a type made of others, such as `{"list": "int64"}` or
`{"struct": {"role": "string"}}`. `{"parts": …}` is a list of such structs, in which a string stands
as one part of text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import pyarrow as pa

TypeSpec: TypeAlias = str | dict[str, Any]
Leaf = Callable[[pa.DataType], pa.DataType]

JSON_TEXT = "json"
_DEEPEST = 32
_LONGEST_FIXED = 1 << 16  # items; Arrow makes room for all of them where the list is null

_DECIMAL = re.compile(r"decimal(32|64|128|256)\((\d+), (-?\d+)\)")
_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), tz=([^\]]+)\]")
_FIXED_BINARY = re.compile(r"fixed_size_binary\[(\d{1,6})\]")


def type_spec(type: pa.DataType) -> TypeSpec:
    """Return the name of a type.

    Raises:
        ValueError: it has none; the message says what it is.
    """
    if pa.types.is_map(type):
        return {"map": [type_spec(type.key_type), type_spec(type.item_type)]}
    if pa.types.is_fixed_size_list(type):
        return {"fixed_size_list": type_spec(type.value_type), "size": type.list_size}
    if pa.types.is_large_list(type):
        return {"large_list": type_spec(type.value_type)}
    if pa.types.is_list(type):
        return {"list": type_spec(type.value_type)}
    if pa.types.is_struct(type):
        fields = {field.name: type_spec(field.type) for field in type}
        if wrong := _wrong_fields([field.name for field in type]):
            raise ValueError(f"{type} has {wrong}")
        return {"struct": fields}
    try:
        if _scalar(str(type)) == type:
            return str(type)
    except ValueError:
        pass
    raise ValueError(f"{type} is no type that a dataset has")


def _wrong_fields(names: list[str]) -> str:
    """Return what is wrong with the names of a struct's fields, if anything is."""
    if not names:
        return "no fields"
    for name in names:
        if "\0" in name:
            return f"a field whose name has a NUL, {name!r}: rename it"
        if names.count(name) > 1:
            return f"two fields with the name {name!r}: rename one"
    return ""


def is_field_name(name: str) -> bool:
    """Return whether a field of a struct may have this name: Parquet's end at a NUL."""
    try:
        name.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return bool(name) and "\0" not in name


def arrow_type(spec: TypeSpec) -> pa.DataType:
    """Return the type of this name.

    Raises:
        ValueError: there is none.
    """
    return _arrow_type(spec, _DEEPEST)


def _arrow_type(spec: Any, depth: int) -> pa.DataType:
    if depth == 0:
        raise ValueError("a type in a type in a type, and so on")
    match spec:
        case str():
            return _scalar(spec)
        case {"list": inner, **rest} if not rest:
            return pa.list_(_arrow_type(inner, depth - 1))
        case {"large_list": inner, **rest} if not rest:
            return pa.large_list(_arrow_type(inner, depth - 1))
        case {"fixed_size_list": inner, "size": int(size), **rest} if not rest:
            if not 0 < size <= _LONGEST_FIXED:
                raise ValueError(f"lists of {size} items: should be 1 to {_LONGEST_FIXED}")
            return pa.list_(_arrow_type(inner, depth - 1), size)
        case {"map": [key, item], **rest} if not rest:
            return pa.map_(_arrow_type(key, depth - 1), _arrow_type(item, depth - 1))
        case {"parts": dict(fields), **rest} if not rest:
            return pa.list_(_arrow_type({"struct": fields}, depth - 1))
        case {"struct": dict(fields), **rest} if fields and not rest:
            return pa.struct(
                [(name, _arrow_type(each, depth - 1)) for name, each in fields.items()]
            )
    raise ValueError(f"{str(spec)[:80]} is no type")


def _scalar(name: str) -> pa.DataType:
    if name == JSON_TEXT:
        return pa.string()
    if found := _DECIMAL.fullmatch(name):
        make: Callable[[int, int], pa.DataType] = getattr(pa, f"decimal{found[1]}")
        return make(int(found[2]), int(found[3]))
    if found := _ZONED.fullmatch(name):
        return pa.timestamp(found[1], found[2])
    if found := _FIXED_BINARY.fullmatch(name):
        return pa.binary(int(found[1]))
    type = pa.type_for_alias(name)
    if pa.types.is_interval(type):
        raise ValueError(f"{name} is no type that a dataset has")
    return type


def with_leaves(type: pa.DataType, leaf: Leaf) -> pa.DataType:
    """Return the type with other ones for those of which it is made; all may be null."""
    if pa.types.is_map(type):
        return pa.map_(with_leaves(type.key_type, leaf), with_leaves(type.item_type, leaf))
    if pa.types.is_fixed_size_list(type):
        return pa.list_(with_leaves(type.value_type, leaf), type.list_size)
    if pa.types.is_large_list(type):
        return pa.large_list(with_leaves(type.value_type, leaf))
    if pa.types.is_list(type):
        return pa.list_(with_leaves(type.value_type, leaf))
    if pa.types.is_struct(type):
        return pa.struct([(field.name, with_leaves(field.type, leaf)) for field in type])
    return leaf(type)


def carried_type(type: pa.DataType) -> pa.DataType:
    """Return the type that a dataset has for a column of this one in a Parquet file.

    It is the same, without what is only how it was encoded: a dictionary, views, an extension.
    """

    def leaf(type: pa.DataType) -> pa.DataType:
        if isinstance(type, pa.BaseExtensionType):
            return carried_type(type.storage_type)
        if pa.types.is_dictionary(type):
            return carried_type(type.value_type)
        if pa.types.is_string_view(type):
            return pa.string()
        if pa.types.is_binary_view(type):
            return pa.binary()
        return type

    return with_leaves(type, leaf)

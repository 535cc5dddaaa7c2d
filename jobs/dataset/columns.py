"""`ColumnTypes`: the Arrow types of the input's own columns, found in one pass over the input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jobs.errors import InputFileError

MAX_COLUMNS = 500

# What was seen in a column, as bits.
_STRING, _INTEGER, _BIG_INTEGER, _DOUBLE, _BOOL, _OTHER = (1 << bit for bit in range(6))

_BIT_OF = {str: _STRING, float: _DOUBLE, bool: _BOOL}

_TYPE_OF = {
    0: "string",
    _STRING: "string",
    _BOOL: "bool",
    _INTEGER: "int64",
    _BIG_INTEGER: "int64",
    _INTEGER | _BIG_INTEGER: "int64",
    _DOUBLE: "double",
    _INTEGER | _DOUBLE: "double",
}

_to_json = json.JSONEncoder(ensure_ascii=False).encode


class ColumnTypes:
    """The types of columns, each the one that holds all values of its column unchanged.

    Types are `string` (also for a column of nulls), `int64`, `double` (integers among them, if
    none loses precision), `bool`, and `json` for all else: values as JSON text.
    """

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def observe(self, columns: Mapping[str, Any]) -> None:
        """Add one row's values.

        Raises:
            InputFileError: the input has more than 500 distinct columns.
        """
        seen = self._seen
        for name, value in columns.items():
            if name not in seen:
                self._add(name)
            if value is not None:
                kind = type(value)
                seen[name] |= _int_bit(value) if kind is int else _BIT_OF.get(kind, _OTHER)

    @property
    def types(self) -> dict[str, str]:
        """The type of every column, in the order in which the columns first appeared."""
        return {name: _TYPE_OF.get(bits, "json") for name, bits in self._seen.items()}

    def _add(self, name: str) -> None:
        if len(self._seen) == MAX_COLUMNS:
            raise InputFileError(
                f"the input has more than {MAX_COLUMNS} distinct columns ({name!r} is one more); "
                "put free-form keys into one object, such as metadata"
            )
        self._seen[name] = 0


def encode_cell(value: Any, type: str) -> Any:
    """Return the value as Arrow takes it in a column of this type."""
    if value is None:
        return None
    if type == "json":
        return _to_json(value)
    return float(value) if type == "double" else value


def _int_bit(value: int) -> int:
    if -(2**53) <= value <= 2**53:
        return _INTEGER
    return _BIG_INTEGER if -(2**63) <= value < 2**63 else _OTHER

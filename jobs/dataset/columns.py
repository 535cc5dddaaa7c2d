"""`ColumnTypes`: the Arrow types of the input's own columns, found in one pass over the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.column_types import JSON_TEXT, TypeSpec
from jobs.errors import InputFileError

MAX_COLUMNS = 500

_KIND_OF = {str: "string", float: "double", bool: "bool"}

# The kinds of values that each type holds. A column has the first that holds all it has, or json.
_HELD_BY = {
    "string": {"string"},
    "bool": {"bool"},
    "int64": {"integer", "big integer"},
    "double": {"double", "integer"},
}


class ColumnTypes:
    """The types of columns, each the one that holds all values of its column unchanged.

    Types are `string` (also for a column of nulls), `int64`, `double` (integers among them, if
    none loses precision), `bool`, and `json` for all else: values as JSON text.

    Args:
        declared: of columns whose types the input says itself.
    """

    def __init__(self, declared: Mapping[str, TypeSpec] | None = None) -> None:
        self._declared = declared or {}
        self._seen: dict[str, set[str]] = {}

    def observe(self, columns: Mapping[str, Any]) -> None:
        """Add one row's values.

        Raises:
            InputFileError: the input has more than 500 distinct columns.
        """
        seen = self._seen
        for name, value in columns.items():
            if name not in seen:
                if len(seen) == MAX_COLUMNS:
                    raise InputFileError(
                        f"the input has more than {MAX_COLUMNS} distinct columns ({name!r} is one "
                        "more); put free-form keys into one object, such as metadata"
                    )
                seen[name] = set()
            if value is not None and name not in self._declared:
                seen[name].add(_kind(value))

    @property
    def types(self) -> dict[str, TypeSpec]:
        """The type of every column, in the order in which the columns first appeared."""
        return {
            name: self._declared.get(name) or _type_of(kinds) for name, kinds in self._seen.items()
        }


def _type_of(kinds: set[str]) -> str:
    return next((type for type, held in _HELD_BY.items() if kinds <= held), JSON_TEXT)


def _kind(value: Any) -> str:
    if type(value) is not int:
        return _KIND_OF.get(type(value), "other")
    if -(2**53) <= value <= 2**53:  # what a double holds exactly
        return "integer"
    return "big integer" if -(2**63) <= value < 2**63 else "other"

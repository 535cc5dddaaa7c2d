"""`ColumnTypes`: the Arrow types of the input's own columns, found in one pass over the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.column_types import TypeSpec
from jobs.dataset.shape import Shape
from jobs.errors import InputFileError

MAX_COLUMNS = 500

# Conversations: of messages, their parts and calls of tools, and what is called.
_LOOSE = {"messages": 3, "conversations": 1}


class ColumnTypes:
    """The types of columns, each the one that holds all values of its column unchanged.

    Types are `string` (also for a column of nulls), `int64`, `double` (integers among them, if
    none loses precision), `bool`, lists of one of these, structs where all objects have the same
    keys, and `json` for all else: values as JSON text. Messages of a chat are structs although keys
    are missing in some.

    Args:
        declared: of columns whose types the input says itself.
    """

    def __init__(self, declared: Mapping[str, TypeSpec] | None = None) -> None:
        self._declared = declared or {}
        self._seen: dict[str, Shape] = {}

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
                seen[name] = Shape(_LOOSE.get(name, 0))
            if value is not None and name not in self._declared:
                seen[name].observe(value)

    @property
    def types(self) -> dict[str, TypeSpec]:
        """The type of every column, in the order in which the columns first appeared."""
        return {name: self._declared.get(name) or shape.type for name, shape in self._seen.items()}

"""`Shape`: what the values of a column look like, and the type that holds all of them unchanged."""

from __future__ import annotations

from typing import Any

from jobs.column_types import JSON_TEXT, TypeSpec, is_field_name

_MOST_KEYS = 100
_DEEPEST = 16

_KIND_OF = {str: "string", float: "double", bool: "bool"}
_OTHER = "other"

# The kinds of values that each type holds. A column has the first that holds all it has, or json.
_HELD_BY = {
    "string": {"string"},
    "bool": {"bool"},
    "int64": {"integer", "big integer"},
    "double": {"double", "integer"},
}


class Shape:
    """The kinds of values that were seen in one place.

    Args:
        loose: so many objects deep a key may be missing, which is as good as null there. Elsewhere
            objects that are no struct, since their keys differ, are JSON.
        depth: how deep in others its values may still hold values.
    """

    __slots__ = ("_depth", "_fields", "_items", "_kinds", "_loose")

    def __init__(self, loose: int = 0, depth: int = _DEEPEST) -> None:
        self._kinds: set[str] = set()
        self._loose, self._depth = loose, depth
        self._items: Shape | None = None
        self._fields: dict[str, Shape] = {}

    def observe(self, value: Any) -> None:
        """Add a value."""
        if value is None or _OTHER in self._kinds:
            return
        if type(value) is list and self._depth:
            self._kinds.add("list")
            if self._items is None:
                self._items = Shape(self._loose, self._depth - 1)
            self._items.observe_all(value)
        elif type(value) is dict and self._depth:
            self._observe_object(value)
        else:
            self._kinds.add(_kind(value))

    def observe_all(self, values: list[Any]) -> None:
        """Add the items of a list; of plain ones, an embedding's, only the kinds are looked at."""
        kinds = [_KIND_OF.get(each) for each in set(map(type, values)) - {type(None)}]
        if None in kinds:
            for value in values:
                self.observe(value)
        else:
            self._kinds.update(kind for kind in kinds if kind)

    @property
    def type(self) -> TypeSpec:
        """The type: `string` where nothing was seen, `json` where no other holds all."""
        kinds = self._kinds
        if plain := next((type for type, held in _HELD_BY.items() if kinds <= held), None):
            return plain
        if kinds == {"list"} and self._items:
            inner = self._items.type
            return JSON_TEXT if inner == JSON_TEXT else {"list": inner}
        if kinds == {"object"}:
            fields = {name: field.type for name, field in self._fields.items()}
            is_json = not fields or (JSON_TEXT in fields.values() and not self._loose)
            return JSON_TEXT if is_json else {"struct": fields}
        if kinds == {"string", "list"} and self._items and self._loose:
            return self._items._parts()
        return JSON_TEXT

    def _parts(self) -> TypeSpec:
        """Return the type of a message's content that is a string, too: one part of text."""
        fields = {name: field.type for name, field in self._fields.items()}
        is_part = fields.get("type") == fields.get("text", "string") == "string"
        is_part = is_part and "role" not in fields
        if not (self._kinds <= {"object"} and (is_part or not self._kinds)):
            return JSON_TEXT
        return {"parts": {"type": "string", "text": "string"} | fields}

    def _observe_object(self, value: dict[str, Any]) -> None:
        self._kinds.add("object")
        if not self._fields or self._loose:
            new = [name for name in value if name not in self._fields]
            inside = max(self._loose - 1, 0), self._depth - 1
            self._fields |= {name: Shape(*inside) for name in new}
            if new and not _is_struct(self._fields):
                self._kinds.add(_OTHER)
        elif value.keys() != self._fields.keys():
            self._kinds.add(_OTHER)
        if not value and not self._loose:
            self._kinds.add(_OTHER)
        if _OTHER in self._kinds:
            self._fields, self._items = {}, None
            return
        for name, each in value.items():
            self._fields[name].observe(each)


def _is_struct(names: dict[str, Shape]) -> bool:
    """Return whether all readers take a struct with these fields; SQL ignores case."""
    if len(names) > _MOST_KEYS or len({name.casefold() for name in names}) < len(names):
        return False
    return all(map(is_field_name, names))


def _kind(value: Any) -> str:
    if type(value) is not int:
        return _KIND_OF.get(type(value), _OTHER)
    if -(2**53) <= value <= 2**53:  # what a double holds exactly
        return "integer"
    return "big integer" if -(2**63) <= value < 2**63 else _OTHER

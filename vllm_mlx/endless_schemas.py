"""Finds schemas that lead to themselves without an end, so that no answer could be whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

_NESTED = frozenset({"object", "array"})


def target_of(root: Mapping[str, Any], reference: str) -> Any:
    """Return the schema that a reference within its document names; None where there is none."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    found: Any = root
    for part in reference.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def require_ends(root: Mapping[str, Any], schemas: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Make sure that all that is referred to has a value of some size.

    Args:
        schemas: all within the document, with where they stand.

    Raises:
        ValueError: naming the first reference that leads on without an end.
    """
    references = [
        (path, each["$ref"]) for path, each in schemas if isinstance(each.get("$ref"), str)
    ]
    targets = {
        reference: target
        for _, reference in references
        if isinstance(target := target_of(root, reference), Mapping)
    }
    endless = set(targets)
    while (left := {each for each in endless if not _ends(targets[each], endless)}) != endless:
        endless = left
    for path, reference in references:
        if reference in endless:
            raise ValueError(
                f"{path}.$ref={reference!r}: leads to itself without an end, so that no answer "
                "could be whole; leave a property on the way out of required, or let it be null"
            )


def _ends(schema: Any, endless: set[str]) -> bool:
    """Whether some value of the schema has an end, as far as that is known of references."""
    if not isinstance(schema, Mapping) or {"const", "enum"} & schema.keys():
        return True
    if isinstance(reference := schema.get("$ref"), str) and reference in endless:
        return False
    if not all(_ends(each, endless) for each in _listed(schema, "allOf")):
        return False
    for key in ("anyOf", "oneOf"):
        either = _listed(schema, key)
        if either and not any(_ends(each, endless) for each in either):
            return False
    kinds = schema.get("type")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds) if isinstance(kinds, list) else set()
    if not kinds or kinds - _NESTED:
        return True
    by_kind = {"object": _object_ends, "array": _array_ends}
    return any(by_kind[kind](schema, endless) for kind in kinds)


def _object_ends(schema: Mapping[str, Any], endless: set[str]) -> bool:
    named, other = schema.get("properties"), schema.get("additionalProperties", True)
    named = named if isinstance(named, Mapping) else {}
    required = _listed(schema, "required")
    if not all(_ends(named.get(str(name), other), endless) for name in required):
        return False
    patterns = schema.get("patternProperties")
    more = [*named.values(), *(patterns.values() if isinstance(patterns, Mapping) else ()), other]
    return _least(schema, "minProperties") <= len(required) or any(
        each is not False and _ends(each, endless) for each in more
    )


def _array_ends(schema: Mapping[str, Any], endless: set[str]) -> bool:
    least, rest = _least(schema, "minItems"), schema.get("items", True)
    first = rest if isinstance(rest, list) else _listed(schema, "prefixItems")
    rest = schema.get("additionalItems", True) if isinstance(rest, list) else rest
    needed = [*first[:least], *([rest] if least > len(first) else ())]
    return all(_ends(each, endless) for each in needed)


def _listed(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _least(schema: Mapping[str, Any], key: str) -> int:
    value = schema.get(key)
    return int(value) if isinstance(value, int | float) else 0

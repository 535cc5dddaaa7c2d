"""What a JSON schema may say here: keywords that no compiler would tell from a typing error.

The standard has an unknown keyword ignored, so that `maxlength` would bound nothing. What is known
but can't be held is refused by the compiler itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from vllm_mlx.endless_schemas import require_ends, target_of
from vllm_mlx.parameters import whole
from vllm_mlx.repetitions import MOST, require_few, too_many

_SCHEMA = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
"""Keywords that hold a schema (`items` of older drafts: a list of them)."""
_NAMED = frozenset(
    {"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"}
)
"""Keywords that hold schemas by names of the user's."""
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_VALUES = frozenset(
    {
        "$anchor",
        "$dynamicAnchor",
        "$dynamicRef",
        "$id",
        "$ref",
        "const",
        "contentEncoding",
        "contentMediaType",
        "dependentRequired",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "maxContains",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minContains",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "multipleOf",
        "pattern",
        "required",
        "type",
        "uniqueItems",
    }
)
_REMARKS = frozenset(
    {
        "$comment",
        "$schema",
        "default",
        "deprecated",
        "description",
        "discriminator",  # OpenAPI's, where it is a hint
        "examples",
        "readOnly",
        "title",
        "writeOnly",
    }
)
"""Keywords that bound nothing."""
KEYWORDS = _SCHEMA | _NAMED | _LISTS | _VALUES | _REMARKS
_SIZES = frozenset(
    f"{bound}{each}" for bound in ("min", "max") for each in ("Items", "Length", "Properties")
)
_NUMBERS = _SIZES | {
    *("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"),
}
_MEANT = {"nullable": 'a type of null, as in {"type": ["string", "null"]}', "example": "examples"}


def require_keywords(schema: Mapping[str, Any]) -> None:
    """Make sure that every keyword of a schema is one of the standard's, and acts.

    Raises:
        ValueError: naming the first one that is not, and where it stands.
    """
    for path, each in subschemas(schema, "$"):
        for keyword, value in each.items():
            if keyword not in KEYWORDS:
                raise ValueError(f"{path}.{keyword}: {_unknown(keyword)}")
            if keyword in _NUMBERS and isinstance(value, bool):
                raise ValueError(f"{path}.{keyword}={value}: should be a number, the bound itself")
            if keyword == "pattern" and isinstance(value, str):
                require_few(value, f"{path}.{keyword}")
            if keyword == "patternProperties" and isinstance(value, Mapping):
                for pattern in value:
                    require_few(pattern, f"{path}.patternProperties")
        least = each.get("minLength", 0)
        if "pattern" in each and isinstance(least, int | float) and least > MOST:
            raise ValueError(f"{path}.minLength={least}: {too_many(least)}")
        if "discriminator" in each and not _is_hint(schema, each):
            raise ValueError(
                f"{path}.discriminator: bounds nothing by itself; leave it out, or have each "
                "schema beside it require the property as a const of its own"
            )
    require_ends(schema, subschemas(schema, "$"))


def _unknown(keyword: str) -> str:
    close = get_close_matches(keyword, KEYWORDS, n=1, cutoff=0.7)
    by_case = [each for each in KEYWORDS if each.lower() == keyword.lower()]
    meant = _MEANT.get(keyword) or next(iter([*by_case, *close]), None)
    hint = f"did you mean {meant}?" if meant else "leave it out"
    return f"unknown keyword of a JSON schema; {hint}"


def _is_hint(root: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether what a `discriminator` says holds without it, as in what pydantic writes."""
    given = schema["discriminator"]
    if not isinstance(given, Mapping) or not given.keys() <= {"propertyName", "mapping"}:
        return False
    name, mapping = given.get("propertyName"), given.get("mapping", {})
    either = schema.get("oneOf") or schema.get("anyOf")
    if not isinstance(mapping, Mapping) or not isinstance(either, list):
        return False

    def says(each: Any) -> list[Any]:
        """Return the values that the property has in a schema."""
        found = target_of(root, each["$ref"]) if "$ref" in each else each
        if name not in found.get("required", ()):
            return []
        said = found["properties"][name]
        return [said["const"]] if "const" in said else list(said.get("enum", ()))

    try:
        mapped = [(value, says({"$ref": reference})) for value, reference in mapping.items()]
        return all(map(says, either)) and all(value in said for value, said in mapped)
    except (AttributeError, KeyError, TypeError):  # it is no such schema
        return False


def with_whole_sizes(schema: Any) -> Any:
    """Return a schema whose sizes are integers: by the standard `2.0` is one."""
    if isinstance(schema, list):
        return list(map(with_whole_sizes, schema))
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            found[key] = {name: with_whole_sizes(each) for name, each in value.items()}
        elif key in _SCHEMA | _LISTS:
            found[key] = with_whole_sizes(value)
        else:
            found[key] = whole(value) if key in _SIZES else value
    return found


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema whose objects have no other properties than those that it names.

    That is what people mean who name some; by the standard a model may invent more. An object that
    says `additionalProperties` stays as it is, and so do all where several schemas hold for one.
    """
    whole: dict[str, Any] = dict(schema) if _adds_up(schema) else _closed(schema)
    return whole


_CLOSED = frozenset({"properties", "$defs", "definitions"})
_OPEN = frozenset({"additionalProperties", "minProperties", "patternProperties"})
_ADDED_TO = frozenset({"required", "properties", *_OPEN})


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return list(map(_closed, schema))
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _CLOSED and isinstance(value, Mapping):
            found[key] = {name: _closed(each) for name, each in value.items()}
        else:
            found[key] = _closed(value) if key in _SCHEMA | _LISTS else value
    names, required = schema.get("properties"), schema.get("required", [])
    if isinstance(names, Mapping) and isinstance(required, list) and not _OPEN & schema.keys():
        found |= {"additionalProperties": False} if set(names).issuperset(required) else {}
    return found


def _adds_up(schema: Any) -> bool:
    """Whether more than one schema holds for some value, or might."""
    if isinstance(schema, list):
        return any(map(_adds_up, schema))
    if not isinstance(schema, Mapping):
        return False
    if {"allOf", "oneOf", "$dynamicRef"} & schema.keys():
        return True
    if {"anyOf", "$ref"} & schema.keys() and _ADDED_TO & schema.keys():
        return True
    return any(map(_adds_up, schema.values()))


def subschemas(schema: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a schema and all within it, each with where it stands."""
    if not isinstance(schema, Mapping):
        return  # true, false, or what the compiler refuses
    yield path, schema
    for key, value in schema.items():
        here = f"{path}.{key}"
        if key in _NAMED and isinstance(value, Mapping):
            for name, each in value.items():
                yield from subschemas(each, f"{here}.{name}")
        elif (key in _LISTS or key in _SCHEMA) and isinstance(value, list):
            for at, each in enumerate(value):
                yield from subschemas(each, f"{here}[{at}]")
        elif key in _SCHEMA:
            yield from subschemas(value, here)

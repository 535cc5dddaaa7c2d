"""Random JSON schemas whose answers are short, so that a model comes to their ends."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = ["a", "b", "cd", "name", "x-y"]


def _string() -> st.SearchStrategy[dict[str, Any]]:
    bounds = st.tuples(st.integers(0, 4), st.integers(4, 8))
    return st.one_of(
        bounds.map(lambda pair: {"type": "string", "minLength": pair[0], "maxLength": pair[1]}),
        st.sampled_from(["^[a-c]{1,4}$", "^(x|yz)-[0-9]{2}$", r"^\d{2,4}$"]).map(
            lambda pattern: {"type": "string", "pattern": pattern}
        ),
        st.just({"type": "string", "format": "date"}),
    )


def _number() -> st.SearchStrategy[dict[str, Any]]:
    def bounded(kind: str, low: int, size: int) -> dict[str, Any]:
        return {"type": kind, "minimum": low, "maximum": low + size}

    whole = st.builds(bounded, st.just("integer"), st.integers(-200, 200), st.integers(0, 2000))
    multiple = st.integers(2, 9).map(
        lambda of: {"type": "integer", "multipleOf": of, "minimum": 0, "maximum": 99}
    )
    return st.one_of(whole, multiple)


_VALUES = st.one_of(st.sampled_from(["a", "bc", "d e"]), st.integers(-5, 5), st.booleans())


def _leaf() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        _string(),
        _number(),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}]),
        st.lists(_VALUES, min_size=1, max_size=4, unique_by=repr).map(lambda v: {"enum": v}),
        _VALUES.map(lambda value: {"const": value}),
    )


@st.composite
def _object(draw: st.DrawFn, inner: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: draw(inner) for name in names},
        "required": draw(st.lists(st.sampled_from(names), unique=True)),
    }
    if draw(st.booleans()):
        schema["additionalProperties"] = False
    return schema


@st.composite
def _array(draw: st.DrawFn, inner: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    least = draw(st.integers(0, 2))
    return {
        "type": "array",
        "items": draw(inner),
        "minItems": least,
        "maxItems": least + draw(st.integers(0, 2)),
    }


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    return st.recursive(
        _leaf(),
        lambda inner: st.one_of(
            _object(inner),
            _array(inner),
            st.lists(inner, min_size=2, max_size=3).map(lambda each: {"anyOf": each}),
        ),
        max_leaves=5,
    )

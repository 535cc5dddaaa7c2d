"""`fields_at`: what an object within a request may have, for errors about what it has besides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import is_typeddict


def fields_at(owner: Any, path: Sequence[str | int]) -> tuple[str, ...]:
    """Return the names of the fields of the object at `path` in a value of the type `owner`.

    Where there is no such object, or it may have any names, there are none.
    """
    types = [owner]
    for part in path:
        types = [_at(kind, part) for each in types for kind in _plain(each)]
    found = (tuple(_fields(kind)) for each in types for kind in _plain(each))
    return next(filter(None, found), ())


def _plain(kind: Any) -> Iterator[Any]:
    """Yield what a type is without annotations, each of a union."""
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _plain(get_args(kind)[0])
    elif origin in (Union, UnionType):
        for each in get_args(kind):
            yield from _plain(each)
    else:
        yield kind


def _fields(kind: Any) -> Mapping[str, Any]:
    if is_typeddict(kind):
        return get_type_hints(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return {}


def _at(kind: Any, part: str | int) -> Any:
    """Return the type of what a list holds, or of an object's field."""
    if isinstance(part, int):
        return next(iter(get_args(kind)), None)
    return _fields(kind).get(part)

"""`JSONRecord`: dataclasses that cross pipes and Redis as JSON; what JSON can't hold as text.

Needs no MLX.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import isfinite
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from vllm_mlx.errors import path_of, shown


class JSONRecord:
    """A dataclass that is written as one line of JSON and read back unchanged."""

    __slots__ = ()
    # NaN and infinity stand as Python's `json` writes them, in nested dataclasses, too.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_inf_nan="constants")

    def encode(self) -> bytes:
        """Return the JSON, without fields that have their default.

        Half a surrogate pair, which is no text in UTF-8, becomes U+FFFD.
        """
        adapter = self.adapter()
        try:
            return adapter.dump_json(self, exclude_defaults=True)
        except PydanticSerializationError:  # rare, so only then is every string looked at
            fields = adapter.dump_python(self, mode="json", exclude_defaults=True)
            return to_json(whole_text(fields), inf_nan_mode="constants")

    @classmethod
    def decode(cls, raw: bytes | str) -> Self:
        """Return what `encode` wrote; fields that are not known are left out.

        Raises:
            ValueError: it is no such record; the message says where and why.
        """
        try:
            record: Self = cls.adapter().validate_json(raw, strict=True)
            return record
        except ValidationError as error:
            raise cls.refusal(error) from None

    @classmethod
    def refusal(cls, error: ValidationError) -> ValueError:
        """Return an error with the first complaint in one line."""
        first, *more = error.errors(include_url=False, include_input=False)
        where = path_of(first["loc"])
        message = f"{where}: {first['msg']}" if where else first["msg"]
        others = f", and {len(more)} more" if more else ""
        return ValueError(f"no {cls.__name__}: {message}{others}")

    @classmethod
    @cache
    def adapter(cls) -> TypeAdapter[Any]:
        """Return what turns such records into plain values and back."""
        return TypeAdapter(cls)


def whole_text(value: Any) -> Any:
    """Return `value` with U+FFFD for each half of a surrogate pair, in nested values, too."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {name: whole_text(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [whole_text(each) for each in value]
    return value


def half_text(value: Any, where: str, skipped: tuple[str, ...] = ()) -> str | None:
    """Return what is said of the first string with half a surrogate pair; None if all are text.

    Args:
        value: a string, or values and names of objects that hold some.
        where: its name.
        skipped: types of the objects that are left out.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return (
                f"{where}={shown(value)}: holds {value[error.start]!r}, half a surrogate pair, "
                "which is no text: leave it out, or give the character whole"
            )
        return None
    if isinstance(value, Mapping):
        if value.get("type") in skipped:
            return None
        named = ((f"{where}.{key}", each) for key, each in value.items())
        inner = [(f"a name in {where}", key) for key in value] + list(named)
    elif isinstance(value, list | tuple):
        inner = [(f"{where}[{at}]", each) for at, each in enumerate(value)]
    else:
        return None
    found = (half_text(each, place, skipped) for place, each in inner)
    return next(filter(None, found), None)


def odd_number(value: Any, where: str) -> str | None:
    """Return what is said of the first number that JSON or 64 bits can't hold; None without one.

    Args:
        value: a number, or values that hold some.
        where: its name.
    """
    if isinstance(value, Mapping):
        inner = [(f"{where}.{key}", each) for key, each in value.items()]
    elif isinstance(value, list | tuple):
        inner = [(f"{where}[{at}]", each) for at, each in enumerate(value)]
    elif isinstance(value, float) and not isfinite(value):
        return f"{where}={value}: is no number in JSON; leave it out"
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        return f"{where}={shown(value)}: has more than 64 bits; give a smaller number"
    else:
        return None
    return next(filter(None, (odd_number(each, place) for place, each in inner)), None)

"""How long what an expression of a template makes will be, at least, before it is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_SIZED = (str, bytes, list, tuple)
_NUMBER = re.compile(r"\d+")
_PERCENT = re.compile(r"%(?:\(\w*\))?([-+ #0-9.*]*)")
_FIELD = re.compile(r"\{[^{}:]*:([^}]*)")
_MOST_BITS = 4096
_BEYOND_USE = 2**62


def size_of(grown: Callable[..., int], *args: Any, **named: Any) -> int:
    """Return what one of `METHODS` or `FILTERS` says of these arguments."""
    try:
        return grown(*args, **named)
    except (TypeError, ValueError, AttributeError):
        return 0  # the call itself will say what is wrong


def size_of_operator(operator: str, left: Any, right: Any) -> int:
    """Return how long a result is; that of numbers counts where it is beyond all use."""
    match operator:
        case "+" if isinstance(left, _SIZED) and isinstance(right, _SIZED):
            return len(left) + len(right)
        case "*" if isinstance(left, _SIZED) and isinstance(right, int):
            return len(left) * right
        case "*" if isinstance(right, _SIZED) and isinstance(left, int):
            return len(right) * left
        case "*" if isinstance(left, int) and isinstance(right, int):
            is_huge = left.bit_length() + right.bit_length() > _MOST_BITS
            return _BEYOND_USE if is_huge else 0
        case "**" if isinstance(left, int) and isinstance(right, int):
            is_huge = left.bit_length() * right > _MOST_BITS
            return _BEYOND_USE if is_huge and abs(left) > 1 else 0
        case "%" if isinstance(left, str):
            return size_of_format(left, *(right if isinstance(right, tuple) else (right,)))
        case _:
            return 0


def size_of_format(text: str, *values: Any, **named: Any) -> int:
    """Return how long a text is at least: a width stands in it, or among the values."""
    fields = text.replace("{{", "").replace("}}", "")
    specs = [*_PERCENT.findall(text), *_FIELD.findall(fields)]
    widths = [int(each) for spec in specs for each in _NUMBER.findall(spec) if len(each) < 20]
    all_values = (*values, *named.values())
    has_given = any("*" in spec or "{" in spec for spec in specs)
    given = [each for each in all_values if has_given and isinstance(each, int)]
    longest = max(map(_length, all_values), default=0)
    inserted = max(fields.count("{") * longest, sum(map(_length, values)))
    return max([*widths, *given, len(text) + inserted])


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str) else 0


def _replaced(text: Any, old: str, new: str, count: int | None = -1) -> int:
    found = str(text).count(old)
    times = found if count in (None, -1) else min(found, int(count or 0))
    return len(str(text)) + times * (len(new) - len(old))


def _padded(_: Any, width: int = 80, *__: Any) -> int:
    return width


def _indented(text: Any, width: int | str = 4, *_: Any, **__: Any) -> int:
    each = width if isinstance(width, int) else len(width)
    return len(str(text)) + each * (str(text).count("\n") + 1)


def _joined(values: Any, separator: str = "", *_: Any, **__: Any) -> int:
    if not isinstance(values, list | tuple):
        return 0
    return sum(len(str(each)) for each in values) + len(separator) * len(values)


METHODS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
    "expandtabs": lambda text, size=8: len(text) + text.count("\t") * size,
    "replace": _replaced,
    "join": lambda separator, values: _joined(values, separator),
}
"""How long what a string's method makes is."""

FILTERS: dict[str, Callable[..., int]] = {
    "center": _padded,
    "replace": _replaced,
    "indent": _indented,
    "join": _joined,
    "format": size_of_format,
    **dict.fromkeys(("batch", "slice"), _padded),
}

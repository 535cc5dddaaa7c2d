"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re
from decimal import Decimal

import click

_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)(?:B|$)", re.IGNORECASE)


def size_option(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | None:
    """The callback of an option that takes a size; no `ParamType`, whose arity click changes."""
    return None if value is None else parse_bytes(value)


def parse_bytes(text: str) -> int:
    """A number of bytes: 8000000000, 8GB (powers of 1000) or 8GiB (powers of 1024).

    Raises:
        click.BadParameter: it is anything else, or less than one byte.
    """
    size = _SIZE.fullmatch(text.strip())
    if size is None:
        raise click.BadParameter(f"{text!r} is no size such as 8GB, 8GiB or 8000000000")
    number, prefix, binary = size.groups()
    total = int(Decimal(number) * (1024 if binary else 1000) ** _POWERS[prefix.upper()])
    if total < 1:
        raise click.BadParameter(f"{text!r} should be at least one byte")
    return total


def format_bytes(size: float) -> str:
    """`size` with three digits and its unit: 512 B, 1.25 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"

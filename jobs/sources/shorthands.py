"""`image` and `video`: how a row says that it has just one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_mlx.errors import InvalidRequestError

SHORTHANDS: Mapping[str, str] = {"image": "images", "video": "videos"}


def written_out(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A request's fields, with the list that a shorthand stands for.

    Raises:
        InvalidRequestError: both are given, or the shorthand is no string.
    """
    full = dict(fields)
    for one, many in SHORTHANDS.items():
        value = full.pop(one, None)
        if value is None:
            continue
        if full.get(many) is not None:
            raise InvalidRequestError(f"give one of {one} and {many}")
        if not isinstance(value, str):
            raise InvalidRequestError(
                f"{one} is a {type(value).__name__}: should be a path, a URL or a data URL as a "
                "string; rename it if it is a column of yours"
            )
        full[many] = [value]
    return full

"""`GenerationOutput` as JSON, for pipes between processes and for Redis. Needs no MLX."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from vllm_mlx.outputs import GenerationOutput

_OUTPUT = TypeAdapter(GenerationOutput)


def encode_output(output: GenerationOutput) -> bytes:
    """JSON on one line; NaN and infinity stand as Python's `json` writes them.

    Half a surrogate pair, which is no text in UTF-8, becomes U+FFFD.
    """
    try:
        return _to_json(output)
    except PydanticSerializationError:  # rare, so that nobody else pays for a look at every string
        return _to_json(_whole(asdict(output)))


def decode_output(raw: bytes | str) -> GenerationOutput:
    """What `encode_output` wrote; fields that are not known are left out.

    Raises:
        ValueError: it is no output; the message says where and why.
    """
    try:
        return _OUTPUT.validate_json(raw, strict=True)
    except ValidationError as error:
        first, *more = error.errors(include_url=False, include_input=False)
        where = ".".join(map(str, first["loc"]))
        told = f"{where}: {first['msg']}" if where else first["msg"]
        others = f", and {len(more)} more" if more else ""
        raise ValueError(f"no GenerationOutput: {told}{others}") from None


def _to_json(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="constants", exclude_none=True)


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(each) for each in value]
    return value

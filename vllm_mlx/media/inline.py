"""`DataURL` and base64 text: media that stand in the prompt itself."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from vllm_mlx.errors import MediaError
from vllm_mlx.media.temporary import too_large
from vllm_mlx.media.url import printable


@dataclass(frozen=True, slots=True)
class Inline:
    """Decoded bytes, their declared type ("" for none), and a name that doesn't repeat them."""

    data: bytes
    content_type: str
    name: str


def from_base64(text: str, max_bytes: int) -> Inline:
    """Decode strict base64.

    Raises:
        MediaError: more than `max_bytes`, or it doesn't decode.
    """
    data = _decoded(text, "base64 text", max_bytes)
    return Inline(data, "", f"base64 text ({len(data):,} bytes)")


def from_bytes(data: bytes, max_bytes: int) -> Inline:
    """Return an encoded file in memory.

    Raises:
        MediaError: it is empty, or more than `max_bytes`.
    """
    return Inline(_sized(data, "bytes", max_bytes), "", f"bytes ({len(data):,} bytes)")


def from_data_url(url: str, max_bytes: int) -> Inline:
    """Decode `data:[type][;parameter…][;base64],data`, percent-encoded as it may be.

    Raises:
        MediaError: it is no such URL, empty, or more than `max_bytes`.
    """
    head, comma, body = url.partition(",")
    content_type, *parameters = head[len("data:") :].lower().split(";")
    content_type = content_type.strip()
    what = printable(f"data:{content_type}")[:60] + ",…"
    if not comma or len(head) > 256:
        raise MediaError(f"{what}: a data URL has a comma after its type, and this one has none")
    if len(body) > 4 * max_bytes + 8:  # even if every byte is base64 and percent-encoded
        raise MediaError(too_large(what, f"about {len(body):,}", max_bytes))
    try:
        raw = unquote_to_bytes(body)
    except UnicodeError:
        raise MediaError(f"{what}: holds half a character") from None
    if any(parameter.strip() == "base64" for parameter in parameters[-1:]):
        data = _decoded(raw, what, max_bytes)
    else:
        data = _sized(raw, what, max_bytes)
    return Inline(data, content_type, f"{what} ({len(data):,} bytes)")


def _decoded(text: str | bytes, what: str, max_bytes: int) -> bytes:
    if len(text) * 3 // 4 - 2 > max_bytes:
        raise MediaError(too_large(what, f"about {len(text) * 3 // 4:,}", max_bytes))
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{what}: not valid base64: {error}") from error
    return _sized(data, what, max_bytes)


def _sized(data: bytes, what: str, max_bytes: int) -> bytes:
    if not data:
        raise MediaError(f"{what}: is empty")
    if len(data) > max_bytes:
        raise MediaError(too_large(what, len(data), max_bytes))
    return data

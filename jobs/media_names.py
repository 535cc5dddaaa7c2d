"""Images and videos as rows name them: by path, by URL, or inline as data URL or base64."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_mlx.content import MEDIA_PARTS

MAX_MEDIA = 64
"""Most images, and most videos, of one row."""

LONGEST_CARRIED = 256
"""Characters of inline media that still go into the dataset."""

_MEDIA_COLUMNS = frozenset({"images", "videos", "image", "video"})
_LONGEST_PATH = 4096
_ADDRESS = re.compile(r"(data|file|https?):|[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# How files of these begin; a JPEG's looks like an absolute path besides. BMP's two letters only
# count with the zero bytes behind its size.
_BEGINNINGS = (
    "iVBORw0KGgo",  # PNG
    "/9j/",  # JPEG
    "R0lGOD",  # GIF
    "UklGR",  # RIFF: WebP, AVI
    "Qk[A-Za-z0-9+/]{6}AAAAA",  # BMP
    "SUkqA|TU0AK",  # TIFF
    "AAAA[A-Za-z0-9+/]{2}Z0eX",  # ftyp: AVIF, MP4, MOV
    "AAAADGpQICAN",  # JPEG 2000
    "AAABAA",  # ICO
    "UD[UY]K",  # PGM, PPM
    "GkXfo",  # WebM, Matroska
)
_BASE64 = re.compile(f"({'|'.join(_BEGINNINGS)})[A-Za-z0-9+/]{{32,}}={{0,2}}")


def located(source: str, folder: str | Path) -> str:
    """`source`, but a relative path made absolute from `folder`."""
    if _ADDRESS.match(source) or _is_base64(source):
        return source
    return str(Path(folder) / source)


def carried(column: str, value: Any) -> Any:
    """A row's own value as it goes into the dataset: the same, but for long inline media.

    A clip as a data URL would stand in the dataset a second time, and no reader could open it
    there better than from the input: of it remain its type and its size.
    """
    if column in _MEDIA_COLUMNS:
        return _abridged_all(value)
    if column == "messages" and isinstance(value, list):
        return [_abridged_message(message) for message in value]
    return value


def _is_base64(source: str) -> bool:
    return len(source) > _LONGEST_PATH or bool(_BASE64.fullmatch(source))


def _abridged_all(value: Any) -> Any:
    if isinstance(value, list):
        return [_abridged(each) for each in value]
    return _abridged(value)


def _abridged_message(message: Any) -> Any:
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list):
        return message
    return {**message, "content": [_abridged_part(part) for part in content]}


def _abridged_part(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    return {k: _abridged_medium(v) if k in MEDIA_PARTS else v for k, v in part.items()}


def _abridged_medium(value: Any) -> Any:
    if isinstance(value, Mapping) and "url" in value:
        return {**value, "url": _abridged(value["url"])}
    return _abridged_all(value)


def _abridged(source: Any) -> Any:
    if not isinstance(source, str) or len(source) <= LONGEST_CARRIED:
        return source
    if source[:5].lower() == "data:":
        head, _, payload = source.partition(",")
        size = _decoded_size(payload) if head.lower().endswith(";base64") else len(payload)
        return f"{head[:LONGEST_CARRIED]},… ({size} bytes)"
    if _ADDRESS.match(source) or not _is_base64(source):
        return source
    return f"base64,… ({_decoded_size(source)} bytes)"


def _decoded_size(payload: str) -> int:
    return len(payload) * 3 // 4 - payload[-2:].count("=")

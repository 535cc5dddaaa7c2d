"""What of a row's images and videos goes into the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_mlx.content import MEDIA_PARTS
from vllm_mlx.media.names import abridged

_MEDIA_COLUMNS = frozenset({"images", "videos", "image", "video"})


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
    return abridged(source) if isinstance(source, str) else source

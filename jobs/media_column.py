"""The `media` column: its Arrow type, and its cells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from vllm_mlx.outputs import MediaInfo

MEDIA = pa.list_(
    pa.struct(
        [
            pa.field("kind", pa.string()),
            pa.field("hash", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("duration_s", pa.float64()),
            pa.field("timestamps", pa.list_(pa.float64())),
            pa.field("truncated", pa.bool_()),
        ]
    )
)


def media_cell(media: Iterable[MediaInfo] | None) -> list[dict[str, Any]] | None:
    """One row's cell; null where there was no image and no video."""
    return None if media is None else [asdict(each) for each in media]


def media_of(cell: Iterable[dict[str, Any]] | None) -> tuple[MediaInfo, ...] | None:
    """What `media_cell` made the cell of."""
    if cell is None:
        return None
    return tuple(MediaInfo(**each | {"timestamps": tuple(each["timestamps"])}) for each in cell)

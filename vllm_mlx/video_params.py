"""`VideoParams`: which frames of a video are looked at, and the only place with defaults."""

from __future__ import annotations

from typing import TypedDict

from pydantic import Field

from vllm_mlx.parameters import Parameters


class VideoParams(Parameters):
    """Frames of a video; frozen, validated, with every default."""

    video_fps: float = Field(2.0, gt=0.0, le=240.0, allow_inf_nan=False)
    """Frames per second to extract of a video."""
    video_max_frames: int = Field(32, ge=1, le=4096)
    """Most frames of a video, spread over all of it where `video_fps` would give more."""


class VideoOptions(TypedDict, total=False):
    """The keyword arguments of calls that take videos: see `VideoParams`."""

    video_fps: float | None
    video_max_frames: int | None

"""`VideoParams`: which frames of a video are looked at, and the only place with defaults."""

from __future__ import annotations

from typing import TypedDict

from pydantic import Field

from vllm_mlx.sampling_params import Parameters


class VideoParams(Parameters):
    """Frames of a video; frozen, validated, with every default.

    Attributes:
        video_fps: frames per second to extract (above 0, at most 240).
        video_max_frames: most frames; where they don't suffice for `video_fps`, they are spread
            over the whole clip (1 to 4096).
    """

    video_fps: float = Field(2.0, gt=0.0, le=240.0, allow_inf_nan=False)
    video_max_frames: int = Field(32, ge=1, le=4096)


class VideoOptions(TypedDict, total=False):
    """The keyword arguments of calls that take videos: see `VideoParams`."""

    video_fps: float
    video_max_frames: int

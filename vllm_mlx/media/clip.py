"""`VideoClip`: the frames that were taken from a video, and when each is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class VideoClip:
    """Frames of a video in the order they are shown.

    Attributes:
        frames: uint8 [T, height, width, 3], RGB, rotation applied.
        timestamps: T seconds from the first frame of the video, as the file says.
        num_frames: that can be read of the video, whether they were taken or not.
        fps: of the source, on average.
        duration_s: from the first frame to the end of the last that can be read, in seconds.
        width, height: in pixels, as shown (rotation applied; pixels taken to be square).
        truncated: the file ends before its own index does, so the end of the video is missing.
    """

    frames: Frames
    timestamps: tuple[float, ...]
    num_frames: int
    fps: float
    duration_s: float
    width: int
    height: int
    truncated: bool = False

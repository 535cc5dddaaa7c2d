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
        frames: uint8 [T, height, width, 3], RGB, rotation applied; pixels taken to be square.
        timestamps: T seconds from the first frame of the video, as the file says.
        duration_s: from the first frame to the end of the last that can be read, in seconds.
        truncated: the file ends before its own index does, so the end of the video is missing.
    """

    frames: Frames
    timestamps: tuple[float, ...]
    duration_s: float
    truncated: bool = False

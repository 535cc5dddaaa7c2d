"""`Pixels`: images and frames as they are, for processors that do all the rest themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from vllm_mlx.media.video import VideoClip
from vllm_mlx.outputs import MediaInfo


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """An image or a video, and what it is.

    Attributes:
        frames: uint8 `[T, height, width, 3]`; an image has one.
    """

    frames: npt.NDArray[np.uint8]
    info: MediaInfo

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes


class AsPixels:
    """`Form` that keeps them as they are."""

    def of_image(self, image: Image.Image, info: MediaInfo) -> Pixels:
        return Pixels(np.asarray(image)[None], info)

    def of_video(self, clip: VideoClip, info: MediaInfo) -> Pixels:
        return Pixels(clip.frames, info)

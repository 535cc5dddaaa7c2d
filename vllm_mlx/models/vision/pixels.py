"""`Pixels`: images and frames as they are, for processors that do all the rest themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vllm_mlx.media.video import VideoClip
from vllm_mlx.models.vision.placeholders import metadata_of
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

    def images(self) -> list[Image.Image]:
        """Each frame as an image."""
        return [Image.fromarray(frame) for frame in self.frames]

    def metadata(self) -> dict[str, Any]:
        """When its frames are shown, as processors of mlx-vlm are told."""
        return metadata_of(self.info)


class AsPixels:
    """`Form` that keeps them as they are."""

    def of_image(self, image: Image.Image, info: MediaInfo) -> Pixels:
        return Pixels(np.asarray(image)[None], info)

    def of_video(self, clip: VideoClip, info: MediaInfo) -> Pixels:
        return Pixels(clip.frames, info)

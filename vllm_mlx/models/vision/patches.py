"""`Patches`: pixels as the vision towers of Qwen take them, processed once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from vllm_mlx.media.video import VideoClip
from vllm_mlx.outputs import MediaInfo


@dataclass(frozen=True, slots=True, eq=False)
class Processed:
    """A medium's patches, `[p, values]`, their grid, and what it is."""

    patches: npt.NDArray[np.float32]
    grid: tuple[int, int, int]
    info: MediaInfo

    @property
    def nbytes(self) -> int:
        return self.patches.nbytes


class Patches:
    """`Form` of a model that runs in slots.

    Args:
        processor: mlx-vlm's for the model.
    """

    def __init__(self, processor: Any) -> None:
        self._images = processor.image_processor
        self._videos = getattr(processor, "video_processor", None) or processor.image_processor

    def of_image(self, image: Image, info: MediaInfo) -> Processed:
        made = self._images(images=[image])
        return Processed(made["pixel_values"], _grid(made["image_grid_thw"]), info)

    def of_video(self, clip: VideoClip, info: MediaInfo) -> Processed:
        made = self._videos(videos=[clip.frames])
        return Processed(made["pixel_values_videos"], _grid(made["video_grid_thw"]), info)


def _grid(grids: Any) -> tuple[int, int, int]:
    time, height, width = np.array(grids)[0].tolist()
    return time, height, width

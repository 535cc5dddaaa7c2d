"""`Abilities`: what an architecture that mlx-vlm embeds can be shown."""

from __future__ import annotations

import inspect
from typing import Any, Literal, NamedTuple

from mlx_vlm.prompt_utils import SINGLE_IMAGE_ONLY_MODELS

from vllm_mlx.errors import MediaError


class Abilities(NamedTuple):
    """How many images and videos a prompt may have, and as what videos are shown.

    Attributes:
        model_type: the architecture's name.
        images: how many images a prompt may have.
        videos: as what the model gets one: a video, or its frames as so many images; None if it
            takes neither.
    """

    model_type: str
    images: Literal["one", "several"]
    videos: Literal["video", "frames"] | None

    def check(self, images: int, videos: int) -> None:
        """Refuse a prompt with more than the model takes.

        Raises:
            MediaError: the model can't be shown so many.
        """
        if videos and self.videos is None:
            raise MediaError(
                f"{self.model_type} takes no videos, only one image a prompt: give it an image, or "
                "use a model that takes videos (docs/models.md lists some)"
            )
        if images > 1 and self.images == "one":
            raise MediaError(
                f"{self.model_type} takes one image a prompt, {images} were given: ask about each "
                "by itself, or use a model that takes several (docs/models.md lists some)"
            )


def abilities_of(model_type: str, processor: Any) -> Abilities:
    """Return what a model can be shown.

    Args:
        processor: mlx-vlm's for the model. Some have an argument for videos and ignore it; those
            that read them have a video processor.
    """
    if model_type in SINGLE_IMAGE_ONLY_MODELS:
        return Abilities(model_type, "one", None)
    takes = inspect.signature(type(processor).__call__).parameters
    reads = getattr(processor, "video_processor", None) is not None
    return Abilities(model_type, "several", "video" if "videos" in takes and reads else "frames")

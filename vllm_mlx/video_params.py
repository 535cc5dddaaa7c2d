"""`VideoParams`: which frames of a video are looked at, and the only place with defaults."""

from __future__ import annotations

from typing import Any, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.sampling_params import describe


class VideoParams(BaseModel):
    """Frames of a video; frozen, validated, with every default.

    Attributes:
        video_fps: frames per second to extract (above 0, at most 240).
        video_max_frames: most frames; where they don't suffice for `video_fps`, they are spread
            over the whole clip (1 to 4096).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    video_fps: float = Field(2.0, gt=0.0, le=240.0, allow_inf_nan=False)
    video_max_frames: int = Field(32, ge=1, le=4096)

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Build from keyword arguments.

        Raises:
            InvalidRequestError: naming each field, what was given and what is allowed.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            raise InvalidRequestError(describe(error, tuple(cls.model_fields))) from None


class VideoOptions(TypedDict, total=False):
    """The keyword arguments of calls that take videos: see `VideoParams`."""

    video_fps: float
    video_max_frames: int

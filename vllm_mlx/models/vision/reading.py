"""`Reader`: images and videos from where they lie to the patches that a vision tower takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from vllm_mlx.batching.media import Medium
from vllm_mlx.errors import MediaError
from vllm_mlx.media.hashing import content_hash, file_hash
from vllm_mlx.media.image import frames_of, read_image
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.selection import select_frames
from vllm_mlx.media.source import opened
from vllm_mlx.media.store import MediaStore
from vllm_mlx.media.video import VideoClip, read_video
from vllm_mlx.outputs import MediaInfo
from vllm_mlx.video_params import VideoParams

Kind = Literal["image", "video"]


@dataclass(frozen=True, slots=True, eq=False)
class Processed:
    """A medium's patches, `[p, values]`, their grid, and what it is."""

    patches: npt.NDArray[np.float32]
    grid: tuple[int, int, int]
    info: MediaInfo

    @property
    def nbytes(self) -> int:
        return self.patches.nbytes


class Pinned(NamedTuple):
    """A medium whose patches stay in memory until `release()`."""

    medium: Medium
    release: Callable[[], None]


class Reader:
    """Reads each medium once, however many prompts have it at the same time.

    What is known is known by content: a file by the hash of its bytes, pixels by the hash of
    these. Only what is being fetched, or held for a prompt, is known by its address.
    """

    def __init__(self, processor: Any, store: MediaStore[Processed], policy: MediaPolicy) -> None:
        self._image_processor = processor.image_processor
        self._video_processor = (
            getattr(processor, "video_processor", None) or processor.image_processor
        )
        self._store = store
        self._policy = policy

    def read(self, kind: Kind, source: Any, params: VideoParams) -> Pinned:
        """
        Args:
            source: a path, a `file:`, `http(s):` or `data:` URL, base64, raw bytes, a PIL image, an
                array of pixels, or for a video frames as an array `[T, H, W, 3]` or a list.

        Raises:
            MediaError: it can't be read, or may not be.
        """
        how = f"{kind} {params.video_fps} {params.video_max_frames}" if kind == "video" else kind

        def load() -> Processed:
            return self._load(kind, source, params)

        if isinstance(source, str) and source.lower().startswith(("http:", "https:")):
            return self._pinned(f"{how} at {source}", load, load, keep=False)
        if isinstance(source, str | bytes | Path):
            with opened(source, self._policy) as file:
                key = f"{how} of {file_hash(file.path)}"
                return self._pinned(
                    key, lambda: self._process(kind, file.path, file.name, params), load
                )
        return self._pinned(f"{how} of {_pixel_hash(source)}", load, load)

    def _load(self, kind: Kind, source: Any, params: VideoParams) -> Processed:
        if isinstance(source, str | bytes | Path):
            with opened(source, self._policy) as file:
                return self._process(kind, file.path, file.name, params)
        if kind == "image":
            return self._image(source, "given as pixels")
        return self._video(self._given(source, params))

    def _process(self, kind: Kind, path: Path, name: str, params: VideoParams) -> Processed:
        if kind == "image":
            return self._image(path, name)
        return self._video(read_video(path, params, self._policy, name=name))

    def _given(self, frames: Any, params: VideoParams) -> VideoClip:
        """Frames that the caller took at `video_fps`, at most `video_max_frames` of them."""
        times = np.arange(len(frames)) / params.video_fps
        taken = list(range(len(frames)))
        if len(frames) > params.video_max_frames:
            taken = select_frames(times, len(frames) / params.video_fps, params)
        clip = frames_of([frames[at] for at in taken], params.video_fps, self._policy)
        return replace(
            clip,
            timestamps=tuple(times[taken].tolist()),
            num_frames=len(frames),
            duration_s=len(frames) / params.video_fps,
        )

    def _image(self, source: Any, name: str) -> Processed:
        image = read_image(source, self._policy, name=name)
        made = self._image_processor(images=[image])
        info = MediaInfo("image", content_hash(np.asarray(image)), image.width, image.height)
        return Processed(made["pixel_values"], _grid(made["image_grid_thw"]), info)

    def _video(self, clip: VideoClip) -> Processed:
        made = self._video_processor(videos=[clip.frames])
        info = MediaInfo(
            "video",
            content_hash(clip.frames),
            clip.width,
            clip.height,
            clip.duration_s,
            clip.timestamps,
            clip.truncated,
        )
        return Processed(made["pixel_values_videos"], _grid(made["video_grid_thw"]), info)

    def _pinned(
        self,
        key: str,
        make: Callable[[], Processed],
        again: Callable[[], Processed],
        *,
        keep: bool = True,
    ) -> Pinned:
        self._store.pin(key)
        try:
            processed = self._store.get(key, make)
        except BaseException:
            self._store.unpin(key, keep=keep)
            raise
        info = processed.info

        def patches() -> npt.NDArray[np.float32]:
            found = self._store.get(key, again)
            if found.info.hash != info.hash:
                raise MediaError(f"the {info.kind} was changed while it was in use: ask again")
            return found.patches

        medium = Medium(processed.grid, info, patches)
        return Pinned(medium, lambda: self._store.unpin(key, keep=keep))


def _grid(grids: Any) -> tuple[int, int, int]:
    time, height, width = np.array(grids)[0].tolist()
    return time, height, width


def _pixel_hash(source: Any) -> str:
    frames = source if isinstance(source, list | tuple) else [source]
    return " ".join(content_hash(np.asarray(frame)) for frame in frames)

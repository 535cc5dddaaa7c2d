"""`MediaReader`: images and videos from where they lie to what a model takes of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from PIL import Image

from vllm_mlx.batching.prompts.prompt import MediaPrompt
from vllm_mlx.content import MediaKind
from vllm_mlx.errors import MediaError
from vllm_mlx.media.image import read_image, stack_frames
from vllm_mlx.media.policy import MediaPolicy
from vllm_mlx.media.room import Room
from vllm_mlx.media.selection import select_frames
from vllm_mlx.media.source import opened
from vllm_mlx.media.store import MediaStore, Sized, content_hash, file_hash
from vllm_mlx.media.video import VideoClip, read_video
from vllm_mlx.outputs import MediaInfo
from vllm_mlx.video_params import VideoParams

GIVEN = "given as pixels"


class ReadMedium(Sized, Protocol):
    """What is kept of a medium."""

    @property
    def info(self) -> MediaInfo:
        """What it is."""


T = TypeVar("T", bound=ReadMedium)
T_co = TypeVar("T_co", bound=ReadMedium, covariant=True)


class Form(Protocol[T_co]):
    """What becomes of pixels for a model. Called on any thread."""

    def of_image(self, image: Image.Image, info: MediaInfo) -> T_co:
        """Of an RGB image."""

    def of_video(self, clip: VideoClip, info: MediaInfo) -> T_co:
        """Of the frames of a video."""


class MediaReader(Generic[T]):
    """Reads each medium once, however many prompts have it at the same time.

    What is known is known by content: a file by the hash of its bytes, pixels by the hash of
    these. Only what is being fetched, or held for a prompt, is known by its address.
    """

    def __init__(self, form: Form[T], store: MediaStore[T], policy: MediaPolicy) -> None:
        self._form = form
        self._store = store
        self._policy = policy
        # A medium has many times the pixels that a model takes of it, and there are many threads.
        self._room = Room(store.max_bytes)
        # Pillow reads the file of an opened image late, and not for two threads at once.
        self._pictures = threading.Lock()

    def read_all(self, prompt: MediaPrompt, pins: ExitStack) -> list[Callable[[], T]]:
        """Read the images and videos of a prompt, in order.

        Args:
            pins: what lets go of them when it is closed.

        Returns:
            For each, what gives its content; it is read again if it was let go meanwhile.

        Raises:
            MediaError: one of them can't be read, or may not be.
        """
        return [
            self._read(part["type"], part[part["type"]], prompt.video, pins)
            for part in prompt.media
        ]

    def _read(
        self, kind: MediaKind, source: Any, params: VideoParams, pins: ExitStack
    ) -> Callable[[], T]:
        """Read one medium and hold it until `pins` is closed.

        Args:
            source: a path, a `file:`, `http(s):` or `data:` URL, base64, raw bytes, a PIL image, an
                array of pixels, or for a video frames as an array `[T, H, W, 3]` or a list.
        """
        how = f"{kind} {params.video_fps} {params.video_max_frames}" if kind == "video" else kind

        def given() -> Image.Image | VideoClip:
            return self._image(source) if kind == "image" else self._clip(source, params)

        def load() -> T:
            if isinstance(source, str | bytes | Path):
                with opened(source, self._policy) as file:
                    return self._process(kind, file.path, file.name, params)
            return self._formed(given(), GIVEN)

        if isinstance(source, str) and source.lower().startswith(("http:", "https:")):
            return self._pinned(pins, f"{how} at {source}", load, load, keep=False)
        if isinstance(source, str | bytes | Path):
            with opened(source, self._policy) as file:
                found = file_hash(file.path)

                def process() -> T:
                    made = self._process(kind, file.path, file.name, params)
                    if file_hash(file.path) != found:  # or others would get this for the old bytes
                        raise MediaError(f"{kind} {file.name} changed while it was read: ask again")
                    return made

                return self._pinned(pins, f"{how} of {found}", process, load)
        # By what is shown of it: an image's own pixels lack its palette and how it is turned.
        shown = given()
        info = _info_of(shown)
        key = f"{how} of {info.hash} {info.duration_s}"
        return self._pinned(pins, key, lambda: self._formed(shown, GIVEN), load)

    def _process(self, kind: MediaKind, path: Path, name: str, params: VideoParams) -> T:
        with self._room.share() as claim:
            if kind == "image":
                return self._formed(read_image(path, self._policy, name=name, claim=claim), name)
            clip = read_video(path, params, self._policy, name=name, claim=claim)
            return self._formed(clip, name)

    def _image(self, picture: Any) -> Image.Image:
        if not isinstance(picture, Image.Image | np.ndarray):
            raise MediaError(
                f"image given as {type(picture).__name__}: give a path, a URL, base64, bytes, a "
                "PIL image or an array uint8 [height, width, 3]"
            )
        with self._pictures:
            return read_image(picture, self._policy, name=GIVEN)

    def _clip(self, frames: Any, params: VideoParams) -> VideoClip:
        """Return frames that the caller took at `video_fps`, at most `video_max_frames`."""
        if not _are_frames(frames):
            given = list(frames.shape) if isinstance(frames, np.ndarray) else type(frames).__name__
            raise MediaError(
                f"video given as {given}: give a path, a URL, base64, bytes, an array uint8 "
                "[T, height, width, 3], or a list of PIL images or arrays uint8 [height, width, 3]"
            )
        times = np.arange(len(frames)) / params.video_fps
        duration_s = len(frames) / params.video_fps
        taken = list(range(len(frames)))
        if len(frames) > params.video_max_frames:
            taken = select_frames(times, duration_s, params)
        with self._pictures:
            pixels = stack_frames((frames[at] for at in taken), self._policy)
        return VideoClip(pixels, tuple(times[taken].tolist()), duration_s)

    def _formed(self, shown: Image.Image | VideoClip, name: str) -> T:
        info = _info_of(shown)
        try:
            if isinstance(shown, VideoClip):
                return self._form.of_video(shown, info)
            return self._form.of_image(shown, info)
        except ValueError as error:  # too small or too narrow for the model's processor
            raise MediaError(
                f"{info.kind} {name}: the model can't take it: {error}; scale or crop it"
            ) from error

    def _pinned(
        self,
        pins: ExitStack,
        key: str,
        make: Callable[[], T],
        again: Callable[[], T],
        *,
        keep: bool = True,
    ) -> Callable[[], T]:
        self._store.pin(key)
        pins.callback(self._store.unpin, key, keep=keep)
        info = self._store.get(key, make).info

        def get() -> T:
            found = self._store.get(key, again)
            if found.info.hash != info.hash:
                raise MediaError(f"the {info.kind} was changed while it was in use: ask again")
            return found

        return get


def infos_of(contents: list[Callable[[], T]]) -> tuple[MediaInfo, ...]:
    """Return what media are: images first, then videos, each in order."""
    infos = [get().info for get in contents]
    return tuple(sorted(infos, key=lambda info: info.kind == "video"))


def _info_of(shown: Image.Image | VideoClip) -> MediaInfo:
    if isinstance(shown, Image.Image):
        return MediaInfo("image", content_hash(np.asarray(shown)), shown.width, shown.height)
    _, height, width, _ = shown.frames.shape
    content, timestamps = content_hash(shown.frames), shown.timestamps
    return MediaInfo("video", content, width, height, shown.duration_s, timestamps, shown.truncated)


def _are_frames(frames: Any) -> bool:
    if isinstance(frames, np.ndarray):
        return frames.ndim == 4
    return isinstance(frames, list | tuple) and all(
        isinstance(frame, Image.Image | np.ndarray) for frame in frames
    )

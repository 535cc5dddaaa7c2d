"""`MediaPolicy`: what an engine may read and fetch for a prompt, how much of it, and by what."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from vllm_mlx.errors import InvalidRequestError
from vllm_mlx.media.host import canonical_domain

MEGA, GIGA = 1 << 20, 1 << 30

VideoReader = Literal["auto", "pyav", "decord"]
VIDEO_READERS: tuple[VideoReader, ...] = get_args(VideoReader)


@dataclass(frozen=True, slots=True)
class MediaPolicy:
    """What an untrusted prompt may name: by default nothing.

    Attributes:
        allowed_paths: folders that local files may be under, once links are resolved; None allows
            every path.
        allowed_domains: hosts that may be fetched from, exactly as written (on any port) or as
            `.example.org` for all below, which leaves out example.org itself; `*` allows every
            public host, None every host, private ones too. No other entry allows a private
            address, not even one that names it.
        max_bytes: most of one file, downloaded or given inline.
        max_pixels: most of one image, or of one frame of a video.
        max_frame_bytes: most that the frames taken from one video hold as pixels.
        max_duration_s: longest video.
        timeout_s: longest time for one download.
        max_redirects: most in one download; each is checked like the first address.
        video_reader: what decodes videos: `pyav`, which is also what `auto` is, or `decord`, where
            it is right on an intact file (otherwise, and where it fails, PyAV). decord is no
            faster, and not safe on damaged files.

    Raises:
        InvalidRequestError: there is no such video reader, or it is not installed.
    """

    allowed_paths: tuple[Path, ...] | None = ()
    allowed_domains: tuple[str, ...] | None = ()
    max_bytes: int = 4 * GIGA
    max_pixels: int = 100 * MEGA
    max_frame_bytes: int = 4 * GIGA
    max_duration_s: float = 4 * 3600.0
    timeout_s: float = 60.0
    max_redirects: int = 5
    video_reader: VideoReader = "auto"

    def __post_init__(self) -> None:
        if self.video_reader not in VIDEO_READERS:
            allowed = ", ".join(VIDEO_READERS)
            raise InvalidRequestError(f"video_reader={self.video_reader!r}: should be {allowed}")
        if self.video_reader == "decord" and find_spec("decord") is None:
            raise InvalidRequestError("video_reader: decord is not installed: pip install decord2")

    @classmethod
    def of(
        cls, paths: Iterable[str | Path], domains: Iterable[str], video_reader: VideoReader = "auto"
    ) -> MediaPolicy:
        """Return the policy of a command line: these folders and these domains, each checked.

        Links are resolved now, so that a folder replaced by a link later allows nothing new.

        Raises:
            InvalidRequestError: a path is no folder, or a domain is not spelled as one or is a
                private address.
        """
        for field, given in (("allowed_paths", paths), ("allowed_domains", domains)):
            if isinstance(given, str):
                raise InvalidRequestError(f"{field}: a list is expected, not the text {given!r}")
        return cls(
            allowed_paths=tuple(map(_folder, paths)),
            allowed_domains=tuple(map(_domain, domains)),
            video_reader=video_reader,
        )


def _folder(path: str | Path) -> Path:
    try:
        resolved = Path(os.path.realpath(path))
        if str(path) and resolved.is_dir():
            return resolved
    except ValueError:  # a zero byte
        pass
    raise InvalidRequestError(f"allowed_paths: {str(path)!r} is not a folder")


def _domain(domain: str) -> str:
    try:
        return canonical_domain(domain)
    except ValueError as error:
        raise InvalidRequestError(
            f"allowed_domains: {domain!r}: {error}. Write a host such as example.org, "
            "`.example.org` for all below it, or `*` for every public host; no scheme, port or path"
        ) from None


UNRESTRICTED = MediaPolicy(allowed_paths=None, allowed_domains=None)
"""For callers who name what is read themselves."""

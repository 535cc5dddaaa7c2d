"""`Input`: where the rows of a run come from, a prompt file or media files with one prompt."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Protocol

from jobs.sources.files import FilePath
from jobs.sources.formats import Format
from jobs.sources.media_files import MediaFiles
from jobs.sources.prompt_file import PromptFile
from jobs.sources.rows import RawRow
from vllm_mlx.errors import InvalidRequestError


class Input(Protocol):
    """What a producer needs of an input."""

    @property
    def path(self) -> Path:
        """What it is called: a file, a folder, or a pattern."""

    @property
    def format(self) -> Format:
        """What its rows are to be read as."""

    @property
    def folder(self) -> Path:
        """What relative paths in its rows are relative to; absolute."""

    def fingerprint(self) -> str:
        """What identifies its content."""

    def version(self) -> Hashable:
        """Another one after a change."""

    def rows(self) -> Iterator[RawRow]:
        """Its rows, not validated; the same each time."""


def input_of(
    path: FilePath | None = None,
    *,
    videos: FilePath | None = None,
    images: FilePath | None = None,
    prompt: str | None = None,
) -> Input:
    """The one input that is named.

    Args:
        path: a prompt file.
        videos, images: a file, a folder, or a pattern such as `clips/**/*.mp4`.
        prompt: what is asked of each of them.

    Raises:
        InvalidRequestError: none or several are given, or a prompt is missing or too much.
        InputFileError: the file can't be read, or there are no such media files.
    """
    if sum(each is not None for each in (path, videos, images)) != 1:
        raise InvalidRequestError(
            "give one of a prompt file, videos and images; a pattern of files stands in quotes"
        )
    if path is not None:
        if prompt is not None:
            raise InvalidRequestError("prompt goes with videos or images; a file has its own")
        return PromptFile.of(path)
    if not prompt:
        raise InvalidRequestError("videos and images need a prompt, which is asked of each file")
    if videos is not None:
        return MediaFiles.of("video", videos, prompt)
    assert images is not None
    return MediaFiles.of("image", images, prompt)

"""`Input`: where the rows of a run come from, a prompt file or media files with one prompt."""

from __future__ import annotations

from typing import TypeAlias

from jobs.sources.files import FilePath
from jobs.sources.media_files import MediaFiles
from jobs.sources.prompt_file import PromptFile
from vllm_mlx.errors import InvalidRequestError

Input: TypeAlias = PromptFile | MediaFiles
"""What a producer reads.

Both have a `path` (of a file, a folder or a pattern) and a `format`, and the absolute `folder` that
relative paths in their rows start from. `fingerprint()` identifies the content, `version()` is
another one after a change, and `rows()` yields the same rows each time, not validated.
"""


def input_of(
    path: FilePath | None = None,
    *,
    videos: FilePath | None = None,
    images: FilePath | None = None,
    prompt: str | None = None,
) -> Input:
    """Return the one input that is named.

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

"""`Input`: where the rows of a run come from, a prompt file or media files."""

from __future__ import annotations

from typing import TypeAlias

from jobs.sources.files import FilePath
from jobs.sources.media_files import MediaFiles
from jobs.sources.prompt_file import PromptFile
from jobs.sources.selection import Selected, Selection
from jobs.sources.template import Template
from vllm_mlx.errors import InvalidRequestError

Input: TypeAlias = PromptFile | MediaFiles | Selected
"""What a producer reads.

Both have a `path` (of a file, a folder or a pattern) and a `format`, the `template` that makes
requests of their rows, the `dialect` of these, and the absolute `folder` that relative paths in
their rows start from. `fingerprint()` identifies the content, `version()` is another one after a
change, and `rows()` yields the same rows each time, not validated.
"""


def input_of(
    path: FilePath | None = None,
    *,
    videos: FilePath | None = None,
    images: FilePath | None = None,
    template: Template | None = None,
    selection: Selection | None = None,
) -> Input:
    """Return the one input that is named.

    Args:
        path: a prompt file.
        videos, images: a file, a folder, or a pattern such as `clips/**/*.mp4`.
        template: what makes requests of its rows; files of media need one.
        selection: which of its rows are read; without one all.

    Raises:
        InvalidRequestError: none or several are given, or the template does not suit them.
        InputFileError: the file can't be read, or there are no such media files.
    """
    if sum(each is not None for each in (path, videos, images)) != 1:
        raise InvalidRequestError(
            "give one of a prompt file, videos and images; a pattern of files stands in quotes"
        )
    whole = _whole(path, videos, images, template)
    return whole if selection is None else Selected(whole, selection)


def shows_files(source: Input) -> bool:
    """Return whether an input is images or videos."""
    return isinstance(source.whole if isinstance(source, Selected) else source, MediaFiles)


def _whole(
    path: FilePath | None,
    videos: FilePath | None,
    images: FilePath | None,
    template: Template | None,
) -> PromptFile | MediaFiles:
    if path is not None:
        return PromptFile.of(path, template=template)
    template = template or Template()
    if videos is not None:
        return MediaFiles.of("video", videos, template)
    assert images is not None
    return MediaFiles.of("image", images, template)

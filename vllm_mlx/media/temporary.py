"""Files for bytes from elsewhere, which go away, with the suffix of their content type."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from vllm_mlx.errors import MediaError

# `mimetypes` reads tables of the machine, and a URL's suffix is not to be trusted: these only.
_SUFFIXES = {
    "image/avif": ".avif",
    "image/bmp": ".bmp",
    "image/gif": ".gif",
    "image/heic": ".heic",
    "image/jpeg": ".jpg",
    "image/jpg": ".jpg",
    "image/png": ".png",
    "image/tiff": ".tiff",
    "image/webp": ".webp",
    "video/mp2t": ".ts",
    "video/mp4": ".mp4",
    "video/mpeg": ".mpg",
    "video/ogg": ".ogv",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "video/x-msvideo": ".avi",
}


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for one medium, readable by its owner alone and removed in the end.

    Raises:
        MediaError: the machine has no room for it.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="mlx-batch-media-")
    except OSError as error:
        raise MediaError(f"no temporary folder on this machine: {error.strerror}") from error
    with folder as path:
        yield Path(path)


def suffix(content_type: str, path: str = "") -> str:
    """Return the suffix of a known content type, otherwise that of `path` if it looks like one."""
    found = PurePosixPath(path).suffix
    plain = found.lower() if re.fullmatch(r"\.[A-Za-z0-9]{1,5}", found) else ""
    return _SUFFIXES.get(content_type, plain)


def write(file: BinaryIO, data: bytes | memoryview, what: str) -> None:
    """Write all of `data`.

    Raises:
        MediaError: the disk is full, or fails.
    """
    rest = memoryview(data)
    try:
        while rest:  # one system call writes 2 GiB at most
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise MediaError(f"{what}: can't be kept on this machine: {error.strerror}") from error


def too_large(what: str, size: int | str, most: int) -> str:
    """Return the message for `size` bytes where `most` are allowed."""
    shown = f"{size:,}" if isinstance(size, int) else size
    return f"{what}: {shown} bytes, allowed are {most:,} (MediaPolicy.max_bytes)"

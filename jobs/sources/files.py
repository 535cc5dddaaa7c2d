"""Input files as bytes, opened, checked and decompressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.errors import InputFileError

FilePath = str | os.PathLike[str]

_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(file, "zstd"),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
"""What opens a file that begins so."""
_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")


@contextmanager
def open_input(path: FilePath) -> Iterator[BufferedReader]:
    """Open an input file for reading bytes.

    Raises:
        InputFileError: it is missing, empty, not a regular file (an input is read more than
            once, so a pipe will not do), or can't be read.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise InputFileError(f"{path} is not a regular file")
        with Path(path).open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise InputFileError(f"{path} is empty: it holds no rows")
            yield file
    except OSError as error:
        raise InputFileError(f"{path} can't be read: {error.strerror or error}") from error


def suffix_of(path: FilePath) -> str:
    """Return a file's extension, in small letters, without that of its compression."""
    name = Path(path)
    return Path(name.stem if name.suffix.lower() in _SUFFIXES else name).suffix.lower()


@contextmanager
def open_content(path: FilePath) -> Iterator[BufferedReader]:
    """Open an input file for reading what it holds, decompressed.

    Raises:
        InputFileError: as of `open_input`, or what is compressed is damaged.
    """
    with open_input(path) as file:
        head = file.peek(6)
        opener = next((each for magic, each in _COMPRESSED.items() if head.startswith(magic)), None)
        if opener is None:
            yield file
            return
        try:
            with opener(file) as content, BufferedReader(content) as whole:
                yield whole
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise InputFileError(f"{path} is compressed, and damaged: {error}") from error

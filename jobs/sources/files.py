"""Input files as bytes, opened and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from jobs.errors import InputFileError

FilePath = str | os.PathLike[str]


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

"""From a file to its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jobs.errors import InputFileError
from jobs.sources.files import FilePath, open_input
from jobs.sources.formats import Format, detect_format
from jobs.sources.lines import read_jsonl, read_text
from jobs.sources.rows import RawRow, RowOrError
from jobs.sources.tables import read_csv, read_parquet

_READERS: dict[Format, Callable[[FilePath], Iterator[tuple[int, RowOrError]]]] = {
    Format.JSONL: read_jsonl,
    Format.OPENAI: read_jsonl,
    Format.TEXT: read_text,
    Format.CSV: read_csv,
    Format.PARQUET: read_parquet,
}


def read_raw(path: FilePath, format: Format | None = None) -> Iterator[RawRow]:
    """Read a file's rows without validation: the same rows in the same order, and cheaply.

    Raises:
        InputFileError: at once if the file is missing, empty or unreadable; while iterating if
            it turns out to hold no rows, or not to be the table it should be.
    """
    return _numbered(path, _READERS[format_of(path, format)](path))


def format_of(path: FilePath, format: Format | None) -> Format:
    """`format`, or what the file looks like; raises as `read_raw` does."""
    if format is None:
        return detect_format(path)
    if format == Format.MEDIA:
        raise InputFileError(f"{path}: {str(Format.MEDIA)!r} is no format of a prompt file")
    with open_input(path):
        return Format(format)


def _numbered(path: FilePath, contents: Iterator[tuple[int, RowOrError]]) -> Iterator[RawRow]:
    row = -1
    for row, (line, content) in enumerate(contents):
        if isinstance(content, dict):
            yield RawRow(row, line, content, None)
        else:
            yield RawRow(row, line, {}, content)
    if row < 0:
        raise InputFileError(f"{path} is empty: it holds no rows")

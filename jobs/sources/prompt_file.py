"""`PromptFile`: a file and its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.column_types import TypeSpec
from jobs.errors import InputFileError
from jobs.sources.files import FilePath, open_input
from jobs.sources.formats import Format, detect_format
from jobs.sources.lines import read_jsonl, read_text
from jobs.sources.rows import RawRow, RowOrError
from jobs.sources.tables import parquet_types, read_csv, read_parquet

_READERS: dict[Format, Callable[[FilePath], Iterator[tuple[int, RowOrError]]]] = {
    Format.JSONL: read_jsonl,
    Format.OPENAI: read_jsonl,
    Format.TEXT: read_text,
    Format.CSV: read_csv,
    Format.PARQUET: read_parquet,
}


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file with a prompt or a chat in each row.

    Raises, as its methods do:
        InputFileError: the file is missing, empty or unreadable.
    """

    path: Path
    format: Format

    @classmethod
    def of(cls, path: FilePath, format: Format | None = None) -> PromptFile:
        """Return the file, of the format that `detect_format` finds unless one is given."""
        if format is None:
            return cls(Path(path), detect_format(path))
        if format == Format.MEDIA:
            raise InputFileError(f"{path}: {str(Format.MEDIA)!r} is no format of a prompt file")
        with open_input(path):
            return cls(Path(path), Format(format))

    @property
    def folder(self) -> Path:
        return self.path.absolute().parent

    def fingerprint(self) -> str:
        """Return the content as `sha256:<hex>`, read in constant memory."""
        with open_input(self.path) as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"

    def version(self) -> Hashable:
        """Return size and time of the last change: enough to notice one within a call."""
        try:
            stat = self.path.stat()
        except OSError as error:
            raise InputFileError(f"{self.path} can't be read: {error}") from error
        return stat.st_size, stat.st_mtime_ns

    def column_types(self) -> dict[str, TypeSpec]:
        """Return the types of those columns for which the file says one."""
        return parquet_types(self.path) if self.format is Format.PARQUET else {}

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows, not validated, and cheaply: the same in the same order each time."""
        row = -1
        for row, (line, content) in enumerate(_READERS[self.format](self.path)):
            if isinstance(content, dict):
                yield RawRow(row, line, content, None)
            else:
                yield RawRow(row, line, {}, content)
        if row < 0:
            raise InputFileError(f"{self.path} is empty: it holds no rows")

"""`PromptFile`: a file and its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jobs.column_types import TypeSpec
from jobs.errors import InputFileError
from jobs.sources.dialect import Dialect
from jobs.sources.files import FilePath, open_input
from jobs.sources.formats import Format, detect_format
from jobs.sources.lines import read_json, read_text
from jobs.sources.row_maker import RowMaker
from jobs.sources.rows import RawRow, RowOrError
from jobs.sources.tables import parquet_types, read_csv, read_parquet
from jobs.sources.template import Template
from jobs.sources.templated import dialect_of


@dataclass(frozen=True)
class PromptFile:
    """A file with a prompt or a chat in each row, or with columns that a template makes one of.

    Raises, as its methods do:
        InputFileError: the file is missing, empty or unreadable.
    """

    path: Path
    format: Format
    template: Template | None = None

    @classmethod
    def of(
        cls, path: FilePath, format: Format | None = None, template: Template | None = None
    ) -> PromptFile:
        """Return the file, of the format that `detect_format` finds unless one is given."""
        if format is None:
            format = detect_format(path)
        elif format == Format.MEDIA:
            raise InputFileError(f"{path}: {str(Format.MEDIA)!r} is no format of a prompt file")
        else:
            with open_input(path):
                format = Format(format)
        if template is not None and format is Format.OPENAI:
            raise InputFileError(
                f"{path} is an OpenAI batch file, whose rows are whole requests: templates are for "
                "JSONL, CSV, Parquet and text"
            )
        return cls(Path(path), format, template)

    @cached_property
    def dialect(self) -> Dialect:
        """What the objects of its rows say."""
        return dialect_of(self.format, self.template)

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
        types = parquet_types(self.path) if self.format is Format.PARQUET else {}
        return self.dialect.declared(types)

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows, not validated, and cheaply: the same in the same order each time."""
        return map(RowMaker(self.template), self._rows()) if self.template else self._rows()

    def _rows(self) -> Iterator[RawRow]:
        row = -1
        for row, (line, content) in enumerate(self._contents()):
            if isinstance(content, dict):
                yield RawRow(row, line, content, None)
            else:
                yield RawRow(row, line, {}, content)
        if row < 0:
            raise InputFileError(f"{self.path} is empty: it holds no rows")

    def _contents(self) -> Iterator[tuple[int, RowOrError]]:
        match self.format:
            case Format.TEXT:
                return read_text(self.path)
            case Format.CSV:
                return read_csv(self.path, self.dialect.check_columns)
            case Format.PARQUET:
                return read_parquet(self.path, self.dialect.check_columns)
            case _:
                return read_json(self.path)

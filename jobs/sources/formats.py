"""Which format an input file has, by its extension and its content."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic_core import from_json

from jobs.errors import InputFileError
from jobs.sources.dialect import Dialect
from jobs.sources.files import FilePath, open_content, suffix_of
from jobs.sources.json_array import elements, is_array
from jobs.sources.lines import numbered_lines
from jobs.sources.openai import OpenAI
from jobs.sources.plain import Plain


class Format(StrEnum):
    """The formats of an input file; `MEDIA` stands for images or videos asked one prompt."""

    JSONL = "jsonl"
    OPENAI = "openai"
    TEXT = "text"
    CSV = "csv"
    PARQUET = "parquet"
    MEDIA = "media"

    @property
    def dialect(self) -> Dialect:
        """What the objects of its rows say."""
        return OpenAI() if self is Format.OPENAI else Plain()


_SUFFIXES = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".json": Format.JSONL,
    ".txt": Format.TEXT,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".parquet": Format.PARQUET,
}

_PARQUET_MAGIC = b"PAR1"

_UNREADABLE = {
    b"PK\x03\x04": "is a zip archive, or an Excel workbook; extract it, or save it as CSV",
    b"ARROW1": "is an Arrow or Feather file; write it as Parquet",
    b"FEA1": "is a Feather file; write it as Parquet",
    b"ORC": "is an ORC file; write it as Parquet",
    b"SQLite format 3": "is an SQLite database; export a table of it as CSV",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook; save it as CSV",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
}


def detect_format(path: FilePath) -> Format:
    """Return a file's format.

    The extension decides, except between JSONL and OpenAI-batch JSONL, which the first row tells
    apart; the rows of a `.json` file may be a list. A file with another extension is Parquet or
    JSONL when it begins like one, and plain text otherwise. Of a file that is compressed, with
    gzip, zstd, bzip2 or xz, it is the extension before that of the compression.

    Raises:
        InputFileError: the file is missing, empty or unreadable, or its content is of a kind
            that can't hold prompts.
    """
    suffix = suffix_of(path)
    format = _SUFFIXES.get(suffix)
    with open_content(path) as file:
        head = file.peek(16)
        for magic, complaint in _UNREADABLE.items():
            if head.startswith(magic):
                raise InputFileError(f"{path} {complaint}")
        if head.startswith(_PARQUET_MAGIC):
            if suffix != Path(path).suffix.lower():
                raise InputFileError(f"{path} is Parquet in a compressed file; decompress it first")
            return Format.PARQUET
        if format is Format.PARQUET:
            raise InputFileError(f"{path} is not a Parquet file, for all its extension")
        if format in (Format.TEXT, Format.CSV):
            return format
        array = suffix == ".json" and is_array(file)
        rows = elements(file, str(path)) if array else numbered_lines(file)
        _, first = next(rows, (0, b""))
        if suffix == ".json" and _is_begun(first):
            raise InputFileError(
                f"{path} is one JSON object; rows are objects in a list, or one on each line. "
                "Of a list inside of it `jq .NAME` makes such a file"
            )
    return _of_row(first) or format or Format.TEXT


def _is_begun(line: bytes) -> bool:
    """Return whether a line is the first of an object that is written over several."""
    return line.lstrip().startswith(b"{") and line.rstrip().endswith((b"{", b"[", b","))


def _of_row(row: bytes) -> Format | None:
    """Return JSONL or OpenAI-batch if the row is a JSON object."""
    try:
        data = from_json(row)
    except ValueError:
        return None
    if not isinstance(data, dict):
        return None
    # A column called "body" beside a prompt is the user's own.
    enveloped = isinstance(data.get("body"), dict) and not data.keys() & {"prompt", "messages"}
    return Format.OPENAI if enveloped else Format.JSONL

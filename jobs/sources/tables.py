"""Tables: CSV (and TSV) and Parquet, made into the objects a JSONL row would hold."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from itertools import chain
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.column_types import TypeSpec, carried_type, type_spec
from jobs.errors import InputFileError
from jobs.sources.cells import column_cells, converted, is_kept
from jobs.sources.files import FilePath, open_content, suffix_of
from jobs.sources.rows import RowOrError
from vllm_mlx.errors import InvalidRequestError

CheckColumns: TypeAlias = Callable[[Sequence[str]], None]
"""Raises InvalidRequestError for what would make every row a bad row."""

# Characters in one cell, and so in what an unclosed quote can swallow.
_LARGEST_CELL = 1 << 25
_BATCH_ROWS = 512
_HEAD = 1 << 16
_QUOTED = re.compile(rb'"[^"]*"')
_NO_TEXT = "not UTF-8; `iconv -f WINDOWS-1252 -t UTF-8` mends most files of spreadsheets"
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # bytes as `surrogateescape` decodes them


def read_csv(path: FilePath, check: CheckColumns) -> Iterator[tuple[int, RowOrError]]:
    """Yield the records under a header row; an empty cell is null."""
    csv.field_size_limit(_LARGEST_CELL)
    with open_content(path) as raw:
        delimiter = "\t" if suffix_of(path) == ".tsv" else _delimiter(raw)
        # Bytes that are not UTF-8 become lone surrogates, so that they spoil only their own row.
        file = io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="")
        records = _records(csv.reader(file, delimiter=delimiter, strict=True))
        _, header = next(records, (1, []))
        if isinstance(header, InvalidRequestError):
            raise InputFileError(f"{path}, header: {header}")
        names = [name or f"column_{index}" for index, name in enumerate(header)]
        _refuse(path, names, check)
        for line, cells in records:
            if isinstance(cells, InvalidRequestError):
                yield line, cells
            else:
                yield line, _csv_row(names, cells)


def _delimiter(file: BufferedReader) -> str:
    """Return what is between the cells of a header: a comma, unless that leaves one cell only.

    Spreadsheets write semicolons where a comma is the sign of decimals.
    """
    header = _QUOTED.sub(b"", file.peek(_HEAD)).lstrip().partition(b"\n")[0]
    counts = {mark: header.count(mark.encode()) for mark in ",;\t"}
    return "," if counts[","] else max(counts, key=counts.__getitem__)


def _records(reader: Any) -> Iterator[tuple[int, list[str] | InvalidRequestError]]:
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, InvalidRequestError(f"not CSV: {error}")
            continue
        if cells:
            is_text = _NOT_UTF8.search("".join(cells)) is None
            yield line, cells if is_text else InvalidRequestError(_NO_TEXT)


def _csv_row(names: list[str], cells: list[str]) -> RowOrError:
    if len(cells) != len(names):
        return InvalidRequestError(f"{len(cells)} cells where the header has {len(names)}")
    pairs = zip(names, cells, strict=True)
    return {name: converted(name, cell) if cell else None for name, cell in pairs}


def parquet_types(path: FilePath) -> dict[str, TypeSpec]:
    """Return the types of a Parquet file's columns, for those whose values stay as they are.

    Raises:
        InputFileError: it can't be read, or a dataset can't have such a column.
    """
    with _parquet(path) as file:
        return {name: spec for name, spec in _specs(path, file).items() if is_kept(name, spec)}


def read_parquet(path: FilePath, check: CheckColumns) -> Iterator[tuple[int, RowOrError]]:
    """Yield the table's rows; what JSON has no type for is as `json_values` writes it."""
    with _parquet(path) as file:
        _refuse(path, file.schema_arrow.names, check)
        _specs(path, file)
        batches = file.iter_batches(batch_size=_BATCH_ROWS)
        yield from enumerate(chain.from_iterable(map(_parquet_rows, batches)), start=1)


@contextmanager
def _parquet(path: FilePath) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"{path} can't be read as Parquet: {error}") from error


def _specs(path: FilePath, file: pq.ParquetFile) -> dict[str, TypeSpec]:
    specs: dict[str, TypeSpec] = {}
    for column in file.schema_arrow:
        try:
            specs[column.name] = type_spec(carried_type(column.type))
        except ValueError as error:
            reason = f"column {column.name!r} can't be carried: {error}"
            raise InputFileError(f"{path}, {reason}") from None
    return specs


def _parquet_rows(batch: pa.RecordBatch) -> Iterator[RowOrError]:
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            columns[name] = column_cells(name, column)
        except ValueError as error:
            if len(batch) > 1:
                for index in range(len(batch)):
                    yield from _parquet_rows(batch.slice(index, 1))
            else:
                yield InvalidRequestError(f"{name} can't be carried: {error}")
            return
    for cells in zip(*columns.values(), strict=True):
        yield dict(zip(columns, cells, strict=True))


def _refuse(path: FilePath, names: Sequence[str], check: CheckColumns) -> None:
    """Refuse at once what would make every row a bad row."""
    try:
        check(names)
    except InvalidRequestError as error:
        raise InputFileError(f"{path}: {error}") from None

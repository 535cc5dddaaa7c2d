"""A part of the dataset: the rows of one shard in a Parquet file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.column_types import JSON_TEXT, TypeSpec
from jobs.column_values import arrow_values
from jobs.dataset.layout import dataset_names, schema
from jobs.errors import DatasetError
from jobs.result_row import RESULT_COLUMNS, ResultRow
from vllm_mlx.json_record import whole_text

logger = logging.getLogger("mlx_batch.dataset")

# Without a value in these a row is none; they are our own.
_NEEDED = {column.name for column in RESULT_COLUMNS} - {"parsed"}


def encode_part(
    rows: Iterable[ResultRow], columns: Mapping[str, TypeSpec], parsed: TypeSpec = JSON_TEXT
) -> pa.Buffer:
    """Return the Parquet file of these rows, in input order.

    A value of the input that does not fit its column is null, and logged: the answers cost more.
    Reading the input has found such values (`json_values`), unless another version did.

    Raises:
        DatasetError: a result does not fit its column, or a column is not in `columns`.
    """
    names = dataset_names(columns)
    ordered = sorted(rows, key=lambda row: (row.row, row.sample_index))
    cells = [
        {**row.cells(), "finished_at": row.finished_at, **_input_cells(row, names)}
        for row in ordered
    ]
    wanted = schema(columns, parsed)
    ids = [row.id for row in ordered]
    arrays = [_array(field, [row.get(field.name) for row in cells], ids) for field in wanted]
    file = pa.BufferOutputStream()
    table = pa.Table.from_arrays(arrays, schema=wanted)
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def read_part(path: Path, expected: pa.Schema) -> pa.Table:
    """Return the rows of a part, every checksum of it checked.

    Raises:
        DatasetError: it can't be read, has no rows, or its schema is not the expected one.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as part:
            if difference := _difference(part.schema_arrow, expected):
                raise DatasetError(f"{path} has another schema: {difference}")
            rows = part.read(use_threads=False)  # all columns, so that every checksum is checked
            rows.validate(full=True)  # else broken UTF-8 raises later, where the file is unknown
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"{path} can't be read: {error}") from error
    if rows.num_rows == 0:
        raise DatasetError(f"{path} holds no rows")
    return rows.replace_schema_metadata()


def _input_cells(row: ResultRow, names: Mapping[str, str]) -> dict[str, Any]:
    if unknown := row.columns.keys() - names.keys():
        listed = ", ".join(sorted(unknown))
        raise DatasetError(f"row {row.id!r} has columns the manifest lacks: {listed}")
    return {names[column]: value for column, value in row.columns.items()}


_MISFITS = (pa.ArrowException, ArithmeticError, TypeError, ValueError)


def _array(field: pa.Field, values: list[Any], ids: Sequence[str]) -> pa.Array:
    try:
        return _whole_array(field, values)
    except _MISFITS:
        return pa.concat_arrays(list(map(partial(_cell, field), values, ids)))


def _cell(field: pa.Field, value: Any, id: str) -> pa.Array:
    try:
        return _whole_array(field, [value])
    except _MISFITS as error:
        if field.name in _NEEDED:
            raise DatasetError(_misfit(id, field.name, field.type, error)) from error
        log_misfit(id, field.name, field.type, error)
        return pa.nulls(1, field.type)


def log_misfit(id: str, column: str, type: Any, error: Exception) -> None:
    """Tell of a value that goes into no part of the dataset, where it is null."""
    logger.warning(
        "%s; it is null in the dataset, which has the answer: find the value in the input",
        _misfit(id, column, type, error),
    )


def _misfit(id: str, column: str, type: Any, error: Exception) -> str:
    return f"row {id!r}: its value of column {column!r} is no {type}: {error}"


def _whole_array(field: pa.Field, values: list[Any]) -> pa.Array:
    try:
        return arrow_values(values, field.type)
    except UnicodeEncodeError:
        return arrow_values(whole_text(values), field.type)


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    if found.equals(expected):
        return ""
    have, want = (dict(zip(s.names, s.types, strict=True)) for s in (found, expected))
    differences = [
        *(f"no column {name!r}" for name in want.keys() - have.keys()),
        *(f"column {name!r} is new" for name in have.keys() - want.keys()),
        *(
            f"column {name!r} is {have[name]}, not {want[name]}"
            for name in have.keys() & want.keys()
            if have[name] != want[name]
        ),
    ]
    return ", ".join(sorted(differences)) or "its columns stand in another order"

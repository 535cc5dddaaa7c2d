"""A part of the dataset: the rows of one shard in a Parquet file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.column_types import JSON_TEXT, TypeSpec
from jobs.column_values import arrow_values
from jobs.dataset.layout import dataset_names, schema
from jobs.errors import DatasetError
from jobs.result_row import ResultRow
from vllm_mlx.json_record import whole_text


def encode_part(
    rows: Iterable[ResultRow], columns: Mapping[str, TypeSpec], parsed: TypeSpec = JSON_TEXT
) -> pa.Buffer:
    """Return the Parquet file of these rows, in input order.

    Raises:
        DatasetError: a value does not fit its column, or its column is not in `columns`.
    """
    names = dataset_names(columns)
    ordered = sorted(rows, key=lambda row: (row.row, row.sample_index))
    cells = [row.cells() | _input_cells(row, names) for row in ordered]
    wanted = schema(columns, parsed)
    arrays = [_array(field, [row.get(field.name) for row in cells]) for field in wanted]
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


def _array(field: pa.Field, values: list[Any]) -> pa.Array:
    try:
        try:
            return arrow_values(values, field.type)
        except UnicodeEncodeError:
            return arrow_values(whole_text(values), field.type)
    except (pa.ArrowException, OverflowError) as error:
        message = f"a value of column {field.name!r} is no {field.type}: {error}"
        raise DatasetError(message) from error


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
